"""The command line: the one place that reads argv and the environment, and puts roles together."""

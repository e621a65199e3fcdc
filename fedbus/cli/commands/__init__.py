"""The commands: options and arguments as typer wants them; the work is done one level up."""

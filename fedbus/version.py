"""The version of fedbus, written here and nowhere else: the build reads this file, and so do the roles."""

__version__ = "0.1.0"

"""Plug-ins for fedbus, outside of its tree."""

"""Settings, each with unit, bound, default and reason."""

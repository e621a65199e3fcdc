"""What every role needs to take part: its presence, reports that arrive, uploads that resume."""

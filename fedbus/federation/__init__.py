"""The engineer's side: start sessions, watch them, fetch models. `connect` is the way in."""

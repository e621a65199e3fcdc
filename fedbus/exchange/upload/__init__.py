"""The sending side of an upload: `machine` decides what to send, `service` sends it."""

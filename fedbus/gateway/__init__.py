"""The gateway: REST, server-sent events and the page, over the bus; it keeps nothing that another could not tell."""

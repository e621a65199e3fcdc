"""Who may do what: identities at the broker, what each role may say and hear, tokens, members, people, the audit.

`permissions` is the table of what a role may do on the bus, `actions` that of what a person may do at a gateway. Nobody
but `authority` holds the keys that make identities; everything else asks it, or works on the boards in the stream
``access`` and is enforced by whoever has those keys (`registrar`).
"""

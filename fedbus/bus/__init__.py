"""The bus: the only way between roles.

``base`` says what is asked of one, ``nats`` and ``memory`` give it, ``embedded`` starts a broker beside us. Nothing is
imported here: a simulation must not pay for nats-py, nor a client for the embedded broker.
"""

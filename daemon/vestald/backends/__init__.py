"""The backends of a daemon: found, built, started, watched, and exchanged while it runs.

adapters    the kinds there are, by entry point
registry    from the configuration to backends that are not started
unit        one backend and what is known of it
supervisor  the only one who moves their states
starting    the gate, and those that join when they come
rounds      how they are, asked again and again
roster      the operator's hand: add, remove, drain, restart
"""

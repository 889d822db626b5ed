"""The daemon's half of `vestal doctor`: what it would find if it started here now.

    command       `vestald doctor`: the findings as JSON, for `vestal doctor` to show beside its own
    directory     the runtime directory, its lock, what lies in it
    system        versions, the kernel's tools, systemd
    backends      what each configured backend needs, by its adapter; and whether all of it fits together

It looks, and changes nothing: it takes no lock that a daemon which starts at this moment would miss.
"""

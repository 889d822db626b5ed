"""The `vestal` command: a client of the daemon, for people and shell scripts.

    main        which command, how it ends: exit codes
    parser      arguments, with one-line complaints and near misses
    failures    exceptions → one line and an exit code
    terminal    what may be written to a terminal, and a status line that can be erased
    wording     numbers, lengths of time and tables as people read them
    completion  scripts for the shells (`shells`), from what may stand where (`places`) and what there is (`names`)
    reach       clients for a command, and waiting until the daemon is ready
    run, embed, status, queue, metrics, pull, models, rm, stop, steer      one command each

The module of a command is imported when the command is typed: `vestal --help` loads neither the protocol nor
sockets, and no command loads asyncio.
"""

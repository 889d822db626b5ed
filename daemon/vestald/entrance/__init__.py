"""Who may come in: the sockets, the kernel's word on who connects, and the bounds on how many."""

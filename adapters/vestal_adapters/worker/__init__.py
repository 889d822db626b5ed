"""Any native engine in a child process: the daemon's side (`host`), the child's side (`child`), and what they say."""

"""llama.cpp behind the port: `backend` runs in the daemon, everything that touches the library in a worker."""

"""Inference servers that run as children of the daemon: `launch` starts one, `backend` keeps it and speaks to it."""

"""Talk to `vestald`, the daemon that keeps language models warm for every app on the machine."""

"""Who runs when: a pure scheduler and its parts, and the shell that waits for it."""

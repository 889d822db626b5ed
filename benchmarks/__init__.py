"""Speed as ratios within one run: Vestal against the barest thing that does the same work on the same machine."""

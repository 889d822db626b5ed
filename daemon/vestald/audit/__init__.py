"""What happened, one chained line each, on a disk that may be slow or full."""

"""One connection and one request: from a frame to its terminal frame."""

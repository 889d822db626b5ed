"""The daemon. It admits, the backends run; who owns what is told in each module's first lines."""

__version__ = "0.1.0"

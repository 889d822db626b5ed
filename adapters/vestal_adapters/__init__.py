"""The adapters that come with Vestal. The daemon finds them by entry point and never imports them by name."""

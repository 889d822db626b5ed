"""Ollama, by its own API: what the one it shares with others has no place for, above all the length of the context."""

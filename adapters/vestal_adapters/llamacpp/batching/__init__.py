"""Slots and steps: who computes what in the next decode, and how a slot's next token is chosen."""

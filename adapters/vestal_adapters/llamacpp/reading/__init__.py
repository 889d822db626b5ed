"""From the tokens of an answer to its events: characters, stop strings, thinking, calls of tools."""

"""Servers with the API that Anthropic began: messages of typed blocks, answered in an event stream of blocks."""

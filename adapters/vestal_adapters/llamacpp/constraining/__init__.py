"""From a grammar or a JSON Schema to the set of tokens that may come next."""

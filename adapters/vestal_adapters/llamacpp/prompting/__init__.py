"""From a request to the tokens of its prompt: template, tools, turns, what fits."""

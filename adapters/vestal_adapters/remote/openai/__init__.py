"""Servers with the API that OpenAI began: chat completions and embeddings, in the dialects of `presets`."""

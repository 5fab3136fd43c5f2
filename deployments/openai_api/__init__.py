"""The surface under /v1 that OpenAI clients speak."""

"""The engine behind HTTP, in OpenAI's shapes and under vLLM's route names."""

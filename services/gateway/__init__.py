"""The endpoint: OpenAI's dialect for every source that is up, a fan-out, keys and limits."""

"""From source rows to samples, prompts, tokens and the pool."""

"""Load, train, embed and score with causal language models."""

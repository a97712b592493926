"""The decode loop on transformers' models."""

"""Runs of a pipeline: rounds, steps, chunks, and the folders that keep them."""

"""Run a pipeline."""

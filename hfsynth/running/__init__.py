"""A run: a pipeline over a dataset, by all processes, in chunks and rounds, so that nothing is lost."""

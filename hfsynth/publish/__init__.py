"""Publication of a dataset: its files, its card, and the push to the Hub."""

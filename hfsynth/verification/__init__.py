"""Verify a published dataset: its files and figures against its record, and its rows against rows that are remade."""

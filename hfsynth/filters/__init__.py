"""Filters, one module each: which rows of a dataset to keep."""

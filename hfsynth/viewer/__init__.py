"""Show rows of a dataset as one HTML page."""

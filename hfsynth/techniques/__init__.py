"""Techniques, one module each: the prompts of a paper and the requests that one row takes."""

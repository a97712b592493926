"""Verify a published dataset: its files and figures against its record, and its rows against rows that are remade.

verify.py              the verdict
published_config.py    the card, record and rows of a published configuration
figures.py             files and figures, without a model
sources.py, remake.py  the source row of a published row, and the row that it makes again
"""

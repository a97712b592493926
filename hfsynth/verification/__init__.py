"""Verification of a published dataset: files and figures are compared with its record, rows are generated again.

verify.py              the entry point, `verify`, and its report
published_config.py    the card, record and rows of a published configuration
figures.py             comparison of files and figures with the record, without a model
sources.py             the source row of each published row
remake.py              generation of rows from their source rows, and comparison with the published ones
"""

"""Verification of a published dataset: files and figures are compared with its record, rows are generated again.

verify.py    the entry point, `verify`, and its report
figures.py   comparison of files and figures with the record, without a model
remake.py    the source row of each published row; generation from it, and comparison with the published row
"""

"""Verification of a published dataset: files and figures are compared with its record, rows are generated again.

verify.py    the entry point, `verify`, the comparison of files and figures with the record, and the report
remake.py    the source row of each published row; generation from it, and comparison with the published row
"""

"""Verification of a published dataset: files and figures are compared with its record, rows are generated again.

verify.py    `verify`: comparison of files and figures with the record, and the report
remake.py    the source row of each published row, its steps run again, and the comparison of the results
"""

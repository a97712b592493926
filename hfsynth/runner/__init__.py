"""Runs of a pipeline.

run.py           all steps, in rounds until enough rows are accepted (rounds.py)
step_worker.py   one step in one process: chunks, their rows, failures
chunks.py        the folder of one step; journal.py finished rows, claims.py who computes which chunk
reuse.py         rows that a step takes over from its other folders
storage.py       files with checksums
"""

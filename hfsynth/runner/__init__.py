"""Runs of a pipeline.

run.py           all steps of a run; rounds.py: how many rows each round of a run with num_rows takes
step_worker.py   one step in one process: completes chunks, counts failures, retries chunks
chunks.py        the folder of one step: its finished rows, and which process computes which chunk
lookahead.py     rows of the next technique that begin while a step's last rows are completed
journal.py       finished rows of chunks that are not finished
reuse.py         rows that a step reuses from other runs of the same step
storage.py       reading and writing of files with checksums
"""

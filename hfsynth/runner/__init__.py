"""Runs of a pipeline.

run.py           all steps of a run
rounds.py        the input of a run, and the number of rows of each round of a run with num_rows
step_worker.py   one step in one process: completion of chunks, counts of failures, retries
chunks.py        the folder of one step: its finished rows, and which process computes which chunk
lookahead.py     rows of the next technique that begin while a step's last rows are completed
journal.py       finished rows of chunks that are not finished
reuse.py         rows that a step reuses from other runs of the same step
storage.py       reading and writing of files with checksums
"""

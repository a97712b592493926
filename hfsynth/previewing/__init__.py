"""Looking before a run: its first rows, exactly as the models read and write them, and what all of it would take."""

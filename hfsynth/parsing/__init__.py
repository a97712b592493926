"""Parse completions: lists, records, single texts."""

"""Texts that are alike: equal, worded alike, near in meaning, or in a benchmark."""

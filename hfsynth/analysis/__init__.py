"""Reports on a dataset: statistics of texts, diversity, tables and charts."""

"""Compare texts: words, ROUGE-L, equal and near-duplicate texts."""

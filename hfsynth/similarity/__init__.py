"""Compare texts: words, n-grams, ROUGE-L, equal and near-duplicate texts."""

"""Compare texts: ROUGE-L, MinHash, n-grams, embeddings."""

"""What completes requests: one file an llm. They know nothing of techniques."""

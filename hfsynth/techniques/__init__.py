"""The techniques: one file each, a row's flow and its prompts. They know nothing of llms."""

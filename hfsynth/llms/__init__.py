"""Language models, and what they share: checkpoints, HTTP. `hfsynth.llm.LLM` has the methods that each defines."""

"""Language models, one module each; `hfsynth.llm.LLM` says what one must define. No module here uses techniques."""

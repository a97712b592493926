"""Language models, one module each; `hfsynth.llm.LLM` has the methods to define. No module here uses techniques."""

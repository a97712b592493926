"""Language models, one module each. No module here uses techniques."""

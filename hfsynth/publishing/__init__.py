"""From a dataset to what others see of it: figures, card, files, one commit."""

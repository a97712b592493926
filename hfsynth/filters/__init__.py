"""The filters, one a file: each decides which rows stay, and says of every other one why it doesn't."""

"""Looking at a dataset: one page of HTML that needs nothing else, with its rows, failures and report."""

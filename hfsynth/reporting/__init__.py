"""What a dataset's rows are like, measured, and told in a terminal, in Markdown, in HTML and as JSON."""

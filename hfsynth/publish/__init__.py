"""Publish a dataset: card, files, Hub."""

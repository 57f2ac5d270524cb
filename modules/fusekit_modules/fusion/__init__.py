"""Fusions: where streams meet."""

"""Heads: read streams out."""

"""Losses: what is optimised."""

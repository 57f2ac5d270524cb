"""Modalities: what one entry of a batch is."""

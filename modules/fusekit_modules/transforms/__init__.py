"""Transforms: changes of raw rows on the host, seeded by row, epoch and name."""

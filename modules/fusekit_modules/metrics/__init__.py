"""Metrics: figures of merit."""

"""Data: from declared sources to batches. Import what you need from its modules."""

"""Sources: where data comes from."""

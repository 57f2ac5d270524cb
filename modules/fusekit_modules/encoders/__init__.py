"""Encoders: from a stream to features."""

"""Layers: ordinary NNX modules beneath the components, without specs."""

"""Machines: chips, topologies, compiler flags, and files that launch a job.

Nothing here imports JAX: what is rendered for a pod is rendered on a laptop.
"""

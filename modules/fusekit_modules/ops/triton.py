"""Pallas's backend by way of Triton, where this JAX has it: from 0.11 on it is deprecated."""

from typing import Any

try:
    from jax.experimental.pallas import triton as found
except ImportError:
    found = None

plgpu: Any = found
LACKING = "this version of JAX has no Pallas for Triton"

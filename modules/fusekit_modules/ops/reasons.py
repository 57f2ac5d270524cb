"""Why kernels cannot, where several have the same reason."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.target import Target


def other_chip(target: Target, generations: Sequence[str]) -> Reason:
    """Of a kernel for TPUs that was compiled for these."""
    if target.platform != "tpu":
        return f"the target is a {target}"
    if target.generation not in generations and not target.interpret:
        return f"it was not compiled for {target}"
    return None


def other_dtype(*arrays: Any) -> Reason:
    """Of a kernel for float32 and bfloat16."""
    for array in arrays:
        if array.dtype not in (jnp.float32, jnp.bfloat16):
            return f"{array.dtype} is not float32 or bfloat16"
    return None

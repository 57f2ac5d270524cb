"""Operations that have kernels of their own, each a folder.

An operation has a `reference` (float32, obvious), the best portable form (`xla`) and kernels
(`tpu`, `gpu`); `floors` counts its FLOPs and least bytes from shapes, `cases` holds the shapes that
tests and benchmarks share, and `op` is the public function.
"""

from fusekit_modules.ops.dispatch import BACKENDS, BackendError, Choice, choose
from fusekit_modules.ops.rule import chosen
from fusekit_modules.ops.target import Target

__all__ = ["BACKENDS", "BackendError", "Choice", "Target", "choose", "chosen"]

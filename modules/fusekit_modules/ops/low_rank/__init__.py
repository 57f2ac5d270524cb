"""Products of affine maps, summed over ranks, whose factors are never held for all ranks."""

from fusekit_modules.ops.low_rank.form import Factor
from fusekit_modules.ops.low_rank.op import Run, low_rank, plan

__all__ = ["Factor", "Run", "low_rank", "plan"]

"""Products of affine maps, summed over ranks, whose factors are never held for all ranks."""

from fusekit_modules.ops.low_rank.form import Factor, given_of
from fusekit_modules.ops.low_rank.op import Run, able, low_rank, plan

__all__ = ["Factor", "Run", "able", "given_of", "low_rank", "plan"]

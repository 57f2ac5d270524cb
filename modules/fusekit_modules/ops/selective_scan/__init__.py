"""The selective scan of Mamba-1, with resets and absent tokens."""

from fusekit_modules.ops.selective_scan.form import given_of
from fusekit_modules.ops.selective_scan.op import Run, able, plan, selective_scan
from fusekit_modules.ops.selective_scan.step import selective_step

__all__ = ["Run", "able", "given_of", "plan", "selective_scan", "selective_step"]

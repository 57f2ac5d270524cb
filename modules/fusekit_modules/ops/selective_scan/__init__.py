"""The selective scan of Mamba-1, with resets and absent tokens."""

from fusekit_modules.ops.selective_scan.op import Run, plan, selective_scan
from fusekit_modules.ops.selective_scan.step import selective_step

__all__ = ["Run", "plan", "selective_scan", "selective_step"]

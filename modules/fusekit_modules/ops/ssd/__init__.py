"""The state-space recurrence with one decay a head and step (Mamba-2, SSD), in chunks."""

from fusekit_modules.ops.ssd.op import ssd, ssd_step

__all__ = ["ssd", "ssd_step"]

"""Files that launch a job, one renderer per target.

A `Job` says what is to run and where; a `Target` makes files of it and knows the command that
submits them. Nothing is submitted here.
"""

from fusekit_tpu.launch.base import LaunchError, Target
from fusekit_tpu.launch.container import Container
from fusekit_tpu.launch.gke import Gke
from fusekit_tpu.launch.job import Job, Place
from fusekit_tpu.launch.queued import QueuedResources
from fusekit_tpu.launch.ray import Ray
from fusekit_tpu.launch.slurm import Slurm
from fusekit_tpu.launch.storage import Storage
from fusekit_tpu.launch.xpk import Xpk

TARGETS: dict[str, Target] = {
    target.name: target for target in (Gke(), Xpk(), QueuedResources(), Slurm(), Ray(), Container())
}
"""Every target by its name in `--target`."""

__all__ = ["TARGETS", "Job", "LaunchError", "Place", "Storage", "Target"]

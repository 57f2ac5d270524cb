"""`--target container`: a Containerfile with fusekit, the config and the script that starts."""

import json
import sys
from importlib.metadata import PackageNotFoundError, version

from fusekit_tpu.launch.base import CONFIG, HOME, START, Target, within
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.script import start

FILE = "Containerfile"
EXTRAS = {"tpu": "tpu", "cuda": "cuda12"}
"""Of jax: what brings a device to it."""


class Container(Target):
    """An image for one machine, or for a target that mounts no files.

    fusekit is on no index: its wheel is expected beside the Containerfile. Python and jax are
    those that checked the config.
    """

    name = "container"
    storages = ("path",)
    takes = ("image",)

    def files(self, job: Job) -> dict[str, str]:
        return image_files(job)

    def submit(self, job: Job, folder: str) -> str:
        file = within(folder, FILE)
        return f"docker build -t {job.image or job.name} -f {file} {folder}"


def image_files(job: Job) -> dict[str, str]:
    """The Containerfile and what it copies."""
    jax = f"jax[{EXTRAS[job.topology.chip.platform]}]{_pinned('jax')}"
    lines = [
        f"# Trains {job.name} on {job.topology}.",
        "# Put the wheel here first: python -m hatchling build -t wheel -d FOLDER",
        f"FROM docker.io/library/python:{sys.version_info[0]}.{sys.version_info[1]}-slim",
        "COPY fusekit-*.whl /tmp/",
        f'RUN python -m pip install --no-cache-dir /tmp/fusekit-*.whl "{jax}"',
        f"COPY {CONFIG} {START} {HOME}/",
        f"CMD {json.dumps(['bash', f'{HOME}/{START}'])}",
    ]
    return {
        FILE: "\n".join(lines) + "\n",
        CONFIG: job.config,
        START: start(job),
    }


def _pinned(package: str) -> str:
    try:
        return f"=={version(package)}"
    except PackageNotFoundError:
        return ""

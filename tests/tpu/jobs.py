"""Jobs to render, and how scripts are run."""

import subprocess

from fusekit_tpu.launch import Job, Place, Storage
from fusekit_tpu.topology import Topology

CONFIG = """version: 1
modalities:
  left: {type: features, width: 4}   # it's "quoted", and $HOME stays
"""


def job(text="v5e:16x16", *, slices=1, runs="gs://bucket/some", place=None, **fields):
    """A job with sensible fields."""
    topology = Topology.parse(text, slices=slices)
    given = {"mesh": {"data": topology.devices}, "image": "registry/fusekit:1", "restarts": 7}
    return Job(
        name="digits",
        topology=topology,
        config=CONFIG,
        runs=Storage.parse(runs),
        place=place or Place(),
        **{**given, **fields},
    )


PODS = "v5e:16x16"
JOBS = {
    "gke": [
        job(),
        job(slices=2),
        job("v5p:4x4x8", runs="pvc://claim"),
        job("v6e:2x4"),
        job("h200:8", place=Place(spot=True)),
        job("h200:8x4"),
    ],
    "xpk": [
        job(PODS, slices=2, runs="/mnt/runs", place=Place(cluster="c", zone="z", project="p")),
        job("v5p:4x4x8", runs="/mnt/runs", place=Place(cluster="c", spot=True)),
        job("h200:8x4", runs="/mnt/runs", place=Place(cluster="c")),
    ],
    "queued-resources": [
        job(place=Place(zone="z")),
        job(slices=2, place=Place(zone="z", project="p", spot=True), image="eu-docker.pkg.dev/p/i"),
        job("v5p:4x4x8", place=Place(zone="z")),
    ],
    "slurm": [
        job("h200:8x4", runs="/shared/runs", image=None),
        job("h100:4", runs="/shared/my runs", image=None),
    ],
    "ray": [job("h200:8x4"), job("h100:8", runs="pvc://claim/deep/er", place=Place(spot=True))],
    "container": [job("v6e:2x4", runs="/runs"), job("h200:8", runs="/runs", image=None)],
}
"""By target."""


def bash(text, *arguments, folder=None, environment=None, check=True):
    """Runs a script from standard input."""
    return subprocess.run(
        ["bash", *arguments],
        input=text,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )

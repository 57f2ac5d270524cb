"""What pods have in common: the container that trains, its files and the storage of its runs."""

from typing import Any

from fusekit_tpu.launch.base import CONFIG, HOME, START
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.script import start
from fusekit_tpu.launch.storage import MOUNT

CONTAINER = "train"
PORT = 8476
"""Where the first process listens, if JAX cannot find out by itself."""
GRACE = 120
"""Seconds between SIGTERM and SIGKILL: to write a checkpoint. A spot machine gives less."""
RESOURCES = {"tpu": "google.com/tpu", "cuda": "nvidia.com/gpu"}


def config_map(job: Job) -> dict[str, Any]:
    """The config and the script, as files for pods."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _files(job)},
        "data": {CONFIG: job.config, START: start(job)},
    }


def container(job: Job, *, name: str = CONTAINER) -> dict[str, Any]:
    """The container, with all chips of its machine."""
    resource = RESOURCES[job.topology.chip.platform]
    return {
        "name": name,
        "image": job.image,
        "resources": {"limits": {resource: str(job.topology.chips_per_host)}},
        "volumeMounts": [
            {"name": "files", "mountPath": HOME, "readOnly": True},
            {"name": "runs", "mountPath": MOUNT},
            {"name": "memory", "mountPath": "/dev/shm"},
        ],
    }


def volumes(job: Job, *, host_network: bool = False) -> list[dict[str, Any]]:
    """What `container` mounts."""
    return [
        {"name": "files", "configMap": {"name": _files(job)}},
        {"name": "runs", **_runs(job, host_network)},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]


def annotations(job: Job) -> dict[str, str]:
    """Of a pod. A bucket is mounted by a container that this one asks for."""
    return {"gke-gcsfuse/volumes": "true"} if job.runs.kind == "bucket" else {}


def selection(job: Job) -> dict[str, Any]:
    """Which nodes: those with the chips, though they are kept for pods that ask for them."""
    chosen = dict(job.topology.node_selector)
    if job.place.spot:
        chosen["cloud.google.com/gke-spot"] = "true"
    found: dict[str, Any] = {"nodeSelector": chosen}
    if job.topology.chip.platform == "cuda":
        found["tolerations"] = [{"key": RESOURCES["cuda"], "operator": "Exists"}]
    return found


def _files(job: Job) -> str:
    return f"{job.name}-files"


def _runs(job: Job, host_network: bool) -> dict[str, Any]:
    if job.runs.kind == "claim":
        return {"persistentVolumeClaim": {"claimName": job.runs.name}}
    # every machine must see at once what another wrote: nothing is remembered of the bucket
    options = "implicit-dirs,metadata-cache:ttl-secs:0"
    attributes = {"bucketName": job.runs.name, "mountOptions": options}
    if host_network:
        attributes["hostNetworkPodKSA"] = "true"
    return {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}

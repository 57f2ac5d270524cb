"""`--target ray`: a RayJob for a cluster of Kubernetes with KubeRay, on machines of GPUs."""

import shlex
from typing import Any

from fusekit_tpu.launch.base import HOME, START, Target, within
from fusekit_tpu.launch.documents import dumped
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.pod import (
    GRACE,
    annotations,
    config_map,
    container,
    selection,
    volumes,
)

FILE = "rayjob.yaml"


class Ray(Target):
    """One worker a machine, and a head without GPUs, which starts the processes.

    The image needs Ray. When it fails, KubeRay makes a new cluster and the job goes on there.
    """

    name = "ray"
    platforms = ("cuda",)
    storages = ("bucket", "claim")
    needs = ("image",)
    takes = ("spot",)

    def files(self, job: Job) -> dict[str, str]:
        files = config_map(job)
        return {FILE: dumped([files, self._rayjob(job)])}

    def submit(self, job: Job, folder: str) -> str:
        return f"kubectl apply -f {within(folder, FILE)}"

    def _rayjob(self, job: Job) -> dict[str, Any]:
        hosts, gpus = job.topology.hosts, job.topology.chips_per_host
        entry = ["python", "-m", "fusekit_tpu.ray_head", str(hosts), str(gpus)]
        head = {"name": "head", "image": job.image}
        workers = {
            "groupName": "machines",
            "replicas": hosts,
            "minReplicas": hosts,
            "maxReplicas": hosts,
            "rayStartParams": {},
            "template": {
                "metadata": {"annotations": annotations(job)},
                "spec": {
                    "terminationGracePeriodSeconds": GRACE,
                    **selection(job),
                    "containers": [container(job, name="worker")],
                    "volumes": volumes(job),
                },
            },
        }
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": job.name},
            "spec": {
                "entrypoint": shlex.join([*entry, "bash", f"{HOME}/{START}"]),
                "backoffLimit": job.restarts,
                "shutdownAfterJobFinishes": True,
                "rayClusterSpec": {
                    "headGroupSpec": {
                        "rayStartParams": {"num-gpus": "0"},
                        "template": {"spec": {"containers": [head]}},
                    },
                    "workerGroupSpecs": [workers],
                },
            },
        }

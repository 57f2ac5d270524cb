"""`--target gke`: a JobSet for a cluster of GKE, and the files that its pods mount."""

from typing import Any

from fusekit.status import MEND
from fusekit_tpu.launch.base import HOME, START, Target, within
from fusekit_tpu.launch.documents import dumped
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.pod import (
    CONTAINER,
    GRACE,
    PORT,
    annotations,
    config_map,
    container,
    selection,
    volumes,
)

FILE = "jobset.yaml"
GROUP = "slice"
NODE_POOL = "cloud.google.com/gke-nodepool"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


class Gke(Target):
    """One Job a slice; a machine of GPUs is one pod of a single Job.

    When a pod fails, all begin again: a program over several machines cannot go on without one.
    What the user has to mend ends the JobSet at once.
    """

    name = "gke"
    storages = ("bucket", "claim")
    needs = ("image",)
    takes = ("spot",)

    def files(self, job: Job) -> dict[str, str]:
        files = config_map(job)
        return {FILE: dumped([files, self._jobset(job)])}

    def submit(self, job: Job, folder: str) -> str:
        return f"kubectl apply -f {within(folder, FILE)}"

    def _jobset(self, job: Job) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": job.name}
        if job.topology.chip.platform == "tpu":
            # a slice is a node pool: none is shared
            metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": NODE_POOL}
        rule = {
            "name": "mend",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
        }
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": metadata,
            "spec": {
                "failurePolicy": {"maxRestarts": job.restarts, "rules": [rule]},
                "replicatedJobs": [
                    {
                        "name": GROUP,
                        "replicas": job.topology.slices,
                        "template": {"spec": self._job(job)},
                    }
                ],
            },
        }

    def _job(self, job: Job) -> dict[str, Any]:
        mend = {"containerName": CONTAINER, "operator": "In", "values": [MEND]}
        return {
            "parallelism": job.topology.hosts_per_slice,
            "completions": job.topology.hosts_per_slice,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": mend}]},
            "template": {"metadata": {"annotations": annotations(job)}, "spec": self._pod(job)},
        }

    def _pod(self, job: Job) -> dict[str, Any]:
        # slices, and machines of GPUs, reach each other fastest by the network of their hosts
        machines = job.topology.chip.platform == "cuda" and job.topology.hosts > 1
        host_network = machines or job.topology.slices > 1
        main = container(job) | {"command": ["bash", f"{HOME}/{START}"]}
        if machines:
            main["env"] = _joining(job)
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE,
            **selection(job),
        }
        if host_network:
            pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
        return {
            **pod,
            "containers": [main],
            "volumes": volumes(job, host_network=host_network),
        }


def _joining(job: Job) -> list[dict[str, Any]]:
    """What `fusekit train` reads; on TPUs GKE says it in its own way, which JAX knows."""
    first = f"{job.name}-{GROUP}-0-0.{job.name}:{PORT}"
    return [
        {"name": "JAX_COORDINATOR_ADDRESS", "value": first},
        {"name": "JAX_NUM_PROCESSES", "value": str(job.topology.hosts)},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
    ]

"""What schedulers say of the processes that they start: SLURM, Open MPI, Kubernetes, TPU pods."""

import os
import re
import socket
import zlib
from collections.abc import Mapping

from fusekit.hosts.place import Found, HostsError

Environ = Mapping[str, str]
PORT = 8476
"""Of the coordinator, where each machine has one run at a time."""
FIRST, RUNS = 61440, 2048
"""Where runs may share a machine each has a pair of ports, by its job's number."""
METADATA_WAIT = 60
"""Seconds in which the name of a TPU pod's first worker must be known."""


def found(environ: Environ, processes: int | None = None) -> Found | None:
    """What the scheduler says that started this process; None if none meant several.

    Args:
      environ: environment variables.
      processes: how many there are, if that was said; Kubernetes itself does not tell.
    """
    for look in (slurm, open_mpi, _tpu):
        if (known := look(environ)) is not None:
            return known
    return kubernetes(environ, processes)


def slurm(environ: Environ) -> Found | None:
    """A step of several tasks. The script of a batch job is none, whatever `srun` is to start."""
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks < 2 or "SLURM_PROCID" not in environ:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    job = f"{environ.get('SLURM_JOB_ID', 0)}.{environ.get('SLURM_STEP_ID', 0)}"
    coordinator = f"{first_node(nodes)}:{port_of(job)}" if nodes else None
    beside = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    device = _device(environ, "SLURM_LOCALID", int(beside[0]) if beside else 1)
    return Found("SLURM", coordinator, tasks, int(environ["SLURM_PROCID"]), device)


def open_mpi(environ: Environ) -> Found | None:
    """Processes that `mpirun` started."""
    size = int(environ.get("OMPI_COMM_WORLD_SIZE", 1))
    if size < 2:
        return None
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid", "")
    launcher = re.search(r"tcp6?://\[?([^,:;\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    beside = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    host = "127.0.0.1" if beside == size else launcher[1] if launcher else None
    coordinator = f"{host}:{port_of(job)}" if host else None
    rank = int(environ.get("OMPI_COMM_WORLD_RANK", 0))
    device = _device(environ, "OMPI_COMM_WORLD_LOCAL_RANK", beside)
    return Found("Open MPI", coordinator, size, rank, device)


def kubernetes(environ: Environ, processes: int | None) -> Found | None:
    """A pod of an indexed job, on its own or in a JobSet: the pod of index 0 coordinates.

    A pod is not told how many there are: that is `FUSEKIT_PROCESSES`.
    """
    index = environ.get("JOB_COMPLETION_INDEX", "")
    if processes is None or processes < 2 or not index.isdigit():
        return None
    name, _, domain = socket.getfqdn().partition(".")
    coordinator = None
    if name.endswith(f"-{index}") and domain:
        coordinator = f"{name.removesuffix(index)}0.{domain}:{PORT}"
    return Found("Kubernetes", coordinator, None, int(index))


def _tpu(environ: Environ) -> Found | None:
    """The workers of TPU slices, as JAX finds them from the environment or from metadata.

    Raises `HostsError` if JAX cannot find out.
    """
    platforms = environ.get("JAX_PLATFORMS", "")
    if environ is not os.environ or (platforms and "tpu" not in platforms):
        return None
    try:
        from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster, GkeTpuCluster
    except ImportError:
        return None
    try:
        for cluster in (GkeTpuCluster, GceTpuCluster):
            if cluster.is_env_present():
                count = cluster.get_process_count()
                if count < 2:
                    return None
                coordinator = cluster.get_coordinator_address(METADATA_WAIT, str(PORT))
                return Found("the TPU pod", coordinator, count, cluster.get_process_id())
    except Exception as error:  # of whatever asks the machine's metadata
        raise HostsError(
            f"JAX cannot find the hosts of this TPU: {type(error).__name__}: {error}\n"
            "    expected: its metadata, or --processes, with --coordinator and --process if there"
            " are several"
        ) from error
    return None


def first_node(nodes: str) -> str:
    """The first name of a list as SLURM writes it: `node[003-007,12],other`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        return nodes
    return match[1] + (match[2] or "") + (match[3] or "")


def port_of(job: str) -> int:
    """A port that all processes of a job agree on; it and the one after it are the job's own."""
    return FIRST + 2 * (zlib.crc32(job.encode()) % RUNS)


def _device(environ: Environ, name: str, beside: int) -> int | None:
    """The local GPU of a process; None where it has the machine, or sees one GPU, to itself."""
    seen = environ.get("CUDA_VISIBLE_DEVICES", environ.get("ROCR_VISIBLE_DEVICES"))
    local = environ.get(name, "")
    own = beside < 2 or (seen is not None and "," not in seen)
    return None if own or not local.isdigit() else int(local)

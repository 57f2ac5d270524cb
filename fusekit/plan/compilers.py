"""The real compiler for chips that are not here: libtpu, for TPUs. GPUs have none here yet."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from fusekit.errors import FusekitError
from fusekit_tpu.topology import Topology

ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at once
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any: the topology is given by name
}


class NoCompilerError(FusekitError):
    """The compiler for a chip is not installed, or does not know the topology."""


def devices(topology: Topology) -> Sequence[Any]:
    """Devices to compile for; none of them is there.

    Raises `NoCompilerError`.
    """
    if topology.chip.platform == "tpu":
        return _tpu(topology)
    raise NoCompilerError("GPUs are planned without their compiler in this version")


def _tpu(topology: Topology) -> Sequence[Any]:
    if find_spec("libtpu") is None:
        raise NoCompilerError("libtpu is not installed: pip install 'fusekit[tpu]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    name, options = topology.pjrt
    try:
        return topologies.get_topology_desc(name, platform="tpu", **options).devices
    except Exception as error:  # whatever the plugin raises, it is about the topology
        reason = str(error).splitlines()[0]
        raise NoCompilerError(f"libtpu does not make {topology}: {reason}") from error

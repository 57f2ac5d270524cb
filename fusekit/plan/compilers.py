"""The real compiler for chips that are not here: libtpu for TPUs, JAX's CUDA plugin for GPUs."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from fusekit.errors import FusekitError
from fusekit.plan.gpus import PLUGINS, target_config
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
    return _tpu(topology) if topology.chip.platform == "tpu" else _cuda(topology)


def _tpu(topology: Topology) -> Sequence[Any]:
    if find_spec("libtpu") is None:
        raise NoCompilerError("libtpu is not installed: pip install 'fusekit[tpu]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return _made("libtpu", topology, {})


def _cuda(topology: Topology) -> Sequence[Any]:
    plugin = next((name for name in PLUGINS if find_spec(name)), None)
    if plugin is None:
        raise NoCompilerError("JAX's CUDA plugin is not installed: pip install 'fusekit[gpu]'")
    return _made(plugin, topology, {"target_config": target_config(topology.chip)})


def _made(compiler: str, topology: Topology, more: dict[str, object]) -> Sequence[Any]:
    from jax.experimental import topologies

    name, options = topology.pjrt
    platform = topology.chip.platform
    try:
        found = topologies.get_topology_desc(name, platform=platform, **options, **more)
    except Exception as error:  # whatever the plugin raises, it is about the topology
        reason = str(error).splitlines()[0]
        raise NoCompilerError(f"{compiler} does not make {topology}: {reason}") from error
    return found.devices

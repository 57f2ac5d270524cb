"""Flags of the XLA compilers, in sets, each with its reason and where it is documented.

A set is chosen by the chip and by what the layout does. What is chosen was found in public
repositories for that chip; none of it was timed by us. Sources:

[maxtext] AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py
[v5e], [v5p] the same, src/maxtext/configs/tpu/v5e and v5p, of the runs whose figures it publishes
[guide] the same, docs/guides/optimization/benchmark_and_performance.md
[jax] docs.jax.dev/en/latest/gpu_performance_tips.html
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fusekit_tpu.topology import Topology

TPU = "LIBTPU_INIT_ARGS"
GPU = "XLA_FLAGS"


@dataclass(frozen=True)
class Flag:
    """One flag.

    Args:
      name: without dashes.
      value: as it is written.
      why: what it does.
      source: where it is documented; see above.
    """

    name: str
    value: str
    why: str
    source: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


@dataclass(frozen=True)
class Flags:
    """Flags that belong together.

    Args:
      name: of the set.
      why: when it is of use.
      variable: of the environment, by which they reach the compiler.
      chips: for which it is documented.
      flags: themselves.
    """

    name: str
    why: str
    variable: str
    chips: tuple[str, ...]
    flags: tuple[Flag, ...]


ASYNC_ALL_GATHER = Flags(
    "async_all_gather",
    "parameters are gathered where they are used: fetch the next ones during a matmul",
    TPU,
    ("v5e", "v5p", "v6e"),
    (
        Flag("xla_enable_async_all_gather", "true", "start a gather, wait later", "[v5e] [v5p]"),
        Flag(
            "xla_tpu_enable_async_collective_fusion",
            "true",
            "fuse a collective in flight with compute",
            "[v5e] [guide]",
        ),
        Flag(
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
            "true",
            "the same for gathers",
            "[v5e] [guide]",
        ),
        Flag(
            "xla_tpu_enable_async_collective_fusion_multiple_steps",
            "true",
            "spread one collective over several computations",
            "[v5e] [guide]",
        ),
        Flag(
            "xla_tpu_overlap_compute_collective_tc",
            "true",
            "let compute and collectives share a core",
            "[v5e] [guide]",
        ),
    ),
)
ASYNC_ALL_REDUCE = Flags(
    "async_all_reduce",
    "activations or gradients are summed over the slice: do it during compute",
    TPU,
    ("v5p", "v6e"),
    (
        Flag("xla_enable_async_all_reduce", "true", "start a sum, wait later", "[maxtext]"),
        Flag(
            "xla_tpu_enable_async_collective_fusion",
            "true",
            "fuse a collective in flight with compute",
            "[maxtext] [guide]",
        ),
        Flag(
            "xla_tpu_enable_async_collective_fusion_fuse_all_reduce",
            "true",
            "the same for sums",
            "[maxtext] [guide]",
        ),
        Flag(
            "xla_tpu_enable_async_collective_fusion_multiple_steps",
            "true",
            "spread one collective over several computations",
            "[maxtext] [guide]",
        ),
        Flag(
            "xla_tpu_overlap_compute_collective_tc",
            "true",
            "let compute and collectives share a core",
            "[maxtext] [guide]",
        ),
    ),
)
ASYNC_PERMUTE = Flags(
    "async_permute",
    "a matmul split over `tensor` becomes a collective matmul, whose parts are passed on meanwhile",
    TPU,
    ("v5p",),
    (
        Flag(
            "xla_enable_async_collective_permute",
            "true",
            "pass a part on and compute with it meanwhile",
            "[v5p] [maxtext]",
        ),
    ),
)
DATA_PARALLEL = Flags(
    "data_parallel_overlap",
    "gradients are summed over `data`: overlap that with the backward pass",
    TPU,
    ("v5e", "v5p", "v6e"),
    (
        Flag(
            "xla_tpu_enable_data_parallel_all_reduce_opt",
            "true",
            "optimise the sums of data parallelism, between slices above all",
            "[v5e] [v5p] [maxtext]",
        ),
        Flag(
            "xla_tpu_data_parallel_opt_different_sized_ops",
            "true",
            "pipeline sums of different sizes too",
            "[v5e] [v5p] [maxtext]",
        ),
    ),
)
HOST_OFFLOAD = Flags(
    "host_offload",
    "arrays are kept in the memory of the host: fetch them ahead",
    TPU,
    ("v6e",),
    (
        Flag(
            "xla_tpu_enable_all_experimental_scheduler_features",
            "true",
            "the scheduler that knows transfers",
            "[maxtext]",
        ),
        Flag(
            "xla_tpu_enable_scheduler_memory_pressure_tracking",
            "true",
            "do not fetch so early that memory runs out",
            "[maxtext]",
        ),
        Flag("xla_tpu_host_transfer_overlap_limit", "24", "transfers in flight", "[maxtext]"),
        Flag(
            "xla_latency_hiding_scheduler_rerun",
            "2",
            "schedule again with less memory if it does not fit",
            "[maxtext]",
        ),
    ),
)
GPU_OVERLAP = Flags(
    "gpu_latency_hiding",
    "several GPUs: overlap collectives with kernels",
    GPU,
    ("h100", "h200"),
    (
        Flag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "order kernels so that collectives run beside them",
            "[jax]",
        ),
    ),
)
SETS = (
    ASYNC_ALL_GATHER,
    ASYNC_ALL_REDUCE,
    ASYNC_PERMUTE,
    DATA_PARALLEL,
    HOST_OFFLOAD,
    GPU_OVERLAP,
)
"""Every set. 7x has none: what was found documented for it is on by default there."""


def chosen(topology: Topology, mesh: Mapping[str, int], *, offload: bool = False) -> list[Flags]:
    """The sets for a chip and a layout.

    Args:
      topology: of the job.
      mesh: sizes of the mesh axes.
      offload: whether the program keeps arrays in the memory of the host.
    """
    several = topology.devices > 1
    wanted = {
        ASYNC_ALL_GATHER.name: mesh.get("fsdp", 1) > 1,
        ASYNC_ALL_REDUCE.name: mesh.get("tensor", 1) > 1,
        ASYNC_PERMUTE.name: mesh.get("tensor", 1) > 1,
        DATA_PARALLEL.name: mesh.get("data", 1) > 1 or topology.slices > 1,
        HOST_OFFLOAD.name: offload,
        GPU_OVERLAP.name: several,
    }
    return [s for s in SETS if topology.chip.name in s.chips and wanted[s.name]]


def environment(sets: Iterable[Flags]) -> dict[str, str]:
    """The variables that pass the flags on; a flag of several sets comes once."""
    found: dict[str, dict[str, None]] = {}
    for each in sets:
        found.setdefault(each.variable, {}).update({str(flag): None for flag in each.flags})
    return {variable: " ".join(flags) for variable, flags in found.items()}

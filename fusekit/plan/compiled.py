"""One train step through the real compiler: what it costs each device. Nothing is run."""

import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import jax

from fusekit.errors import FusekitError
from fusekit.graph.graph import Graph
from fusekit.layout import Layout
from fusekit.plan.hlo.costs import Costs, costs
from fusekit.plan.hlo.products import Declared
from fusekit.plan.turns import rows_of
from fusekit.program import Program
from fusekit_tpu.topology import Topology

if TYPE_CHECKING:
    from fusekit.plan.cache import Cache

_SIZE = r"([\d.]+)([KMGT]?)i?B?"
_USED = re.compile(rf"[Uu]sed {_SIZE} of {_SIZE}|required for HLO temporaries \({_SIZE}\) exceeds")
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

UNTUNED: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
"""Of a GPU: products by cuBLAS. Those that Triton makes need a GPU, to try tiles on."""

EXPONENTIALS = 160
"""That a TPU takes in a cycle, with what else its kernels do to each score: between what bundles of
our attention (100 to 135) and of our contrasts (390) on v5e come to."""

Axes = tuple[str, ...]


class CompilationError(FusekitError):
    """The compiler refuses the step for another reason than memory."""


@dataclass(frozen=True)
class Measure:
    """What the compiler says of one step on one device; sums add and scale like vectors.

    Args:
      peak: bytes of memory at most held at once.
      flops: of products of matrices and convolutions, two for a multiply-add.
      cycles: the compiler's estimate; 0 where it gives none.
      compute: seconds of compute by formulas, for where there are no cycles.
      hbm: bytes read and written in main memory.
      ici, dcn: bytes sent within a slice and between slices, by mesh axes.
      cycles_of, flops_of: by node; `""` is what belongs to none, the optimiser most of all.
      state: bytes of parameters, moments and statistics.
      seconds: that it took to find out.
      fits: whether the compiler found room; `None` if it was not asked.
    """

    peak: float = 0.0
    flops: float = 0.0
    cycles: float = 0.0
    compute: float = 0.0
    hbm: float = 0.0
    ici: dict[Axes, float] = field(default_factory=dict)
    dcn: dict[Axes, float] = field(default_factory=dict)
    cycles_of: dict[str, float] = field(default_factory=dict)
    flops_of: dict[str, float] = field(default_factory=dict)
    state: float = 0.0
    seconds: float = 0.0
    fits: bool | None = True

    def plus(self, other: "Measure", times: float) -> "Measure":
        """This, and so many times the other; time to find out is added once."""

        def both(a: Any, b: Any) -> Any:
            if not isinstance(a, dict):
                return a + times * b
            return {key: a.get(key, 0.0) + times * b.get(key, 0.0) for key in {**a, **b}}

        values = {name: both(getattr(self, name), getattr(other, name)) for name in SUMS}
        return Measure(**values, seconds=self.seconds + other.seconds, fits=None)


SUMS = ("peak", "flops", "cycles", "compute", "hbm", "ici", "dcn", "cycles_of", "flops_of", "state")


def measure(
    graph: Graph,
    layout: Layout,
    topology: Topology,
    *,
    batch: int,
    slices: str = "data",
    layers: str | None = None,
    task: str | None = None,
    cache: "Cache | None" = None,
) -> Measure:
    """Compiles the real train step of a graph for devices that need not be here.

    Args:
      graph: of one stage.
      layout: over devices that `fusekit.plan.compilers` gives.
      topology: that they form.
      batch: rows over all devices.
      slices: the mesh axis that crosses from slice to slice.
      layers: `scan` or `unroll`, in place of what the experiment says.
      task: whose step, where tasks alternate.
      cache: of what was compiled before.

    Raises:
      LayoutError: the batch does not divide over the mesh.
      CompilationError: the compiler refuses.
    """
    began = time.monotonic()
    program: Any = Program(graph, layout=layout, layers=layers)  # pyright: ignore[reportArgumentType]
    state = jax.tree.map(_placed, program.states.abstract, program.states.shardings)
    rows = rows_of(program.model, batch, task)
    rows = jax.tree.map(lambda leaf: _placed(leaf, layout.batch(leaf)), rows)
    step = program.compiled_step if task is None else program.step_of(task)
    lowered = step.lower(state, rows)
    kept = state_bytes(program.states)
    key = "" if cache is None else cache.key(str(topology), slices, lowered.as_text())
    known = None if cache is None else cache.get(key)
    if known is not None:
        return replace(known, seconds=time.monotonic() - began)
    found = _compiled(lowered, layout, topology, slices)
    found = replace(found, state=kept, seconds=time.monotonic() - began)
    if cache is not None:
        cache.put(key, found)
    return found


def _compiled(lowered: Any, layout: Layout, topology: Topology, slices: str) -> Measure:
    """Compiles a lowered step and reads what it costs."""
    gpu = topology.chip.platform == "cuda"
    try:
        compiled = lowered.compile(compiler_options=UNTUNED if gpu else None)
    except jax.errors.JaxRuntimeError as error:
        used = _beyond(str(error))
        if used is None:
            raise CompilationError(f"the compiler refuses the step: {_first(error)}") from error
        return Measure(peak=used, fits=False)
    mesh = dict(layout.mesh.shape)
    along = slices if topology.slices > 1 else None
    found: Costs = costs(compiled.as_text(), mesh, topology.slices, along)
    memory: Any = compiled.memory_analysis()
    peak = _blocks(memory) if gpu else memory.peak_memory_in_bytes
    flops_of, cycles_of = Counter(found.dot_flops_by_scope), Counter(found.cycles_by_scope)
    for node, work in found.declared:
        flops_of[node] += work.flops
        if not gpu:
            cycles_of[node] += kernel_cycles(work, topology)
    return Measure(
        peak=peak,
        flops=found.dot_flops + found.custom_flops,
        cycles=sum(cycles_of.values()),
        compute=_waits(found, topology) if gpu else 0.0,
        hbm=found.hbm_bytes,
        ici=dict(found.ici_bytes_by_axes),
        dcn=dict(found.dcn_bytes_by_axes),
        cycles_of=dict(cycles_of),
        flops_of=dict(flops_of),
        fits=None if gpu else True,
    )


def kernel_cycles(work: Declared, topology: Topology) -> int:
    """Of a kernel on a TPU, whose compiler estimates none: those of its products or of its bytes,
    whichever are more, and of its exponentials with the arithmetic around them."""
    chip = topology.chip
    if not chip.clock:
        return 0
    flops, rate = (each / chip.devices / chip.clock for each in (chip.flops, chip.hbm_rate))
    moving = max(work.flops / flops, work.bytes_accessed / rate)
    return round(moving + work.transcendentals / EXPONENTIALS)


def _waits(found: Costs, topology: Topology) -> float:
    """Seconds of all kernels of a GPU, each the longer of FLOPs and bytes over the rates that such
    a GPU reached: its compiler estimates none."""
    chip = topology.chip
    peak, rate = chip.reached_flops or chip.flops, chip.reached_rate or chip.hbm_rate
    return sum(max(flops / peak, size / rate) for flops, size in found.kernels)


def _blocks(memory: Any) -> float:
    """Bytes that a program takes on a GPU: what goes in and comes out, and one block for all else.

    Its compiler refuses nothing for want of room.
    """
    given = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return given - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def _placed(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def state_bytes(states: Any) -> float:
    """Of one device's part of a state: parameters, moments and statistics."""
    leaves = zip(jax.tree.leaves(states.abstract), jax.tree.leaves(states.shardings), strict=True)
    return float(sum(prod(p.shard_shape(a.shape)) * a.dtype.itemsize for a, p in leaves))


def _beyond(message: str) -> float | None:
    """Bytes that a program would need which has no room; `None` if that is not the fault."""
    found = _USED.search(message)
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        return None
    size, unit = (found[1], found[2]) if found[1] else (found[5], found[6])
    return float(size) * 1024.0 ** _UNITS[unit]


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:300]

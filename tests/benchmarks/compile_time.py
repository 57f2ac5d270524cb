"""Whether compile time depends on depth where layers are scanned.

    python tests/benchmarks/compile_time.py [--depths 12 96] [--repeats 3] [--profile CASE]

Three shapes of a model: a stack that nobody edits, two stacks that exchange by bottleneck tokens
from layer 3, and gated cross-attention at every fourth layer. Of each phase (resolve, Program,
shardings, lower, compile, init) the least processor time of the repeats counts: on a shared
machine it says more than wall time, which is given beside it.
"""

import argparse
import cProfile
import math
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from measuring import load, report

import fusekit
from fusekit.batch import blank
from fusekit.component import OperatorSpec, register
from fusekit.layered import Edit, Operator
from fusekit.parameter import parameter
from fusekit.program import Program
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.norm import LayerNorm

MOST = 1.3
PHASES = ("resolve", "program", "shardings", "lower", "compile", "init")


@register
class GatedCrossSpec(OperatorSpec):
    """Before a layer, tokens read another stream through a gate that starts closed."""

    uniform = True
    type: Literal["benchmark_gated_cross"] = "benchmark_gated_cross"

    def build_operator(self, streams: Any, reads: Any, *, rngs: nnx.Rngs) -> Operator:
        return Operator()

    def build_layer(self, index: int, streams: Any, reads: Any, *, rngs: nnx.Rngs) -> Operator:
        return GatedCross(streams[0].width, rngs=rngs)


class GatedCross(Operator):
    """x + tanh(gate) * attention(norm(x), y)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, 2, rngs=rngs)
        self.gate = parameter(rngs, nnx.initializers.zeros, (1,), (None,))

    def enter(self, streams: Any, reads: Any, state: Any, *, layers: Any, context: Any) -> Any:
        (x,), (y,) = streams, reads.values()
        normal = x.with_(values=self.norm(x.values))
        update = self.attention(normal, y, context=context)
        gate = jnp.tanh(self.gate[...]).astype(update.dtype)
        return (Edit(stream=x.with_(values=x.values + gate * update)),), state


def experiment(case: str, depth: int) -> Any:
    """A small classifier whose stacks have so many layers."""
    tokens = {"type": "tokens", "vocab": 16, "length": 8}
    stack = {"type": "transformer", "depth": depth, "width": 16, "heads": 2, "readout": 1}
    fusion: dict[str, Any] = {}
    two = case != "untouched"
    other = {"b": {**stack, "depth": 2} if case == "every_fourth" else stack} if two else {}
    if case == "bottleneck":
        fusion["exchange"] = {"type": "bottleneck", "into": ["a@3..", "b@3.."], "tokens": 2}
    if case == "every_fourth":
        fusion["cross"] = {"type": "benchmark_gated_cross", "inputs": ["b"], "into": "a@3../4"}
    fusion["joint"] = {"type": "concat", "inputs": ["a.readout", "b.readout" if two else "a.mean"]}
    return fusekit.Experiment.of(
        {
            "version": 1,
            "modalities": {
                "a": tokens,
                **({"b": tokens} if two else {}),
                "label": {"type": "label", "classes": 4},
            },
            "encoders": {"a": stack, **other},
            "fusion": fusion,
            "heads": {"label": {"type": "classifier", "input": "joint", "classes": 4}},
            "losses": {
                "label": {"type": "cross_entropy", "prediction": "label", "target": "batch.label"}
            },
            "train": {"clip": 1.0, "optimizer": {"type": "adamw"}},
        }
    )


class Clock:
    """Processor and wall seconds by phase."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    def __call__(self, phase: str, call: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        self.cpu[phase] = time.process_time() - cpu
        self.wall[phase] = time.perf_counter() - wall
        return result


def phases(case: str, depth: int) -> tuple[Clock, int]:
    """The clock of one experiment from its declaration to a compiled step and a first state."""
    clock, declared = Clock(), experiment(case, depth)
    graph = clock("resolve", lambda: fusekit.resolve(declared))
    program = clock("program", lambda: Program(graph, layers="scan"))
    clock("shardings", lambda: program.states.shardings)
    batch = blank(program.model, 4)
    lowered = clock("lower", lambda: program.compiled_step.lower(program.states.abstract, batch))
    compiled = clock("compile", lowered.compile)
    clock("init", lambda: jax.block_until_ready(program.init(0)))
    return clock, compiled.as_text().count(" = ")


def profile(case: str, depth: int, lines: int = 25) -> None:
    """Prints where Python spends its time before XLA takes over."""
    declared = experiment(case, depth)
    profiler = cProfile.Profile()
    profiler.enable()
    program = Program(fusekit.resolve(declared), layers="scan")
    program.compiled_step.lower(program.states.abstract, blank(program.model, 4))
    profiler.disable()
    pstats.Stats(profiler).sort_stats("cumulative").print_stats("fusekit|optax", lines)


def measure(case: str, depths: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Least seconds by phase and depth, in turns, and their ratios."""
    cpu: dict[int, dict[str, float]] = {d: dict.fromkeys(PHASES, math.inf) for d in depths}
    wall: dict[int, dict[str, float]] = {d: dict.fromkeys(PHASES, math.inf) for d in depths}
    instructions: dict[int, int] = {}
    phases(case, depths[0])
    for _ in range(repeats):
        for depth in depths:
            clock, instructions[depth] = phases(case, depth)
            for phase in PHASES:
                cpu[depth][phase] = min(cpu[depth][phase], clock.cpu[phase])
                wall[depth][phase] = min(wall[depth][phase], clock.wall[phase])
    low, high = depths

    def whole(seconds: dict[str, float]) -> float:
        return sum(seconds[p] for p in PHASES)

    return {
        "cpu": {d: {p: round(s, 3) for p, s in cpu[d].items()} for d in depths},
        "wall": {d: {p: round(s, 3) for p, s in wall[d].items()} for d in depths},
        "ratio": {p: round(cpu[high][p] / max(cpu[low][p], 1e-3), 2) for p in PHASES},
        "ratio_compile": round(cpu[high]["compile"] / cpu[low]["compile"], 3),
        "ratio_all": round(whole(cpu[high]) / whole(cpu[low]), 3),
        "ratio_all_wall": round(whole(wall[high]) / whole(wall[low]), 3),
        "instructions": [instructions[d] for d in depths],
        "load": load(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cases = ("untouched", "bottleneck", "every_fourth")
    parser.add_argument("--only", nargs="*", default=list(cases))
    parser.add_argument("--depths", type=int, nargs=2, default=(12, 96))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", choices=cases, help="print a profile of one case and stop")
    args = parser.parse_args()
    if args.profile:
        profile(args.profile, args.depths[0])
        profile(args.profile, args.depths[1])
        return 0
    before, figures, failures = load(), {}, []
    for case in args.only:
        figures[case] = found = measure(case, tuple(args.depths), args.repeats)
        print(case, found, flush=True)
        for what in ("ratio_compile", "ratio_all"):
            if found[what] > MOST:
                failures.append(f"{case}: {what} {found[what]} > {MOST}")
    return report("compile_time", figures, failures=failures, before=before)


if __name__ == "__main__":
    sys.exit(main())

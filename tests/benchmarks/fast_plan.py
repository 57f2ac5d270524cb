"""How well a plan from short compilations agrees with that of the whole program, and how long each
takes.

    python tests/benchmarks/fast_plan.py [--only clip,uniter] [--layers 72] [--rows 16]

Models of published shape and width, but deeper, layers run one by one: at the published
depth plans compile the whole. The last line is JSON: by model, the fast plan's FLOPs, peak, cycles
and bytes over ICI as ratios to the whole program's, and the seconds of both.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from measuring import load, report

import fusekit
from fusekit.graph.graph import Graph
from fusekit.layout import Layout
from fusekit.plan.compiled import Measure, measure
from fusekit.plan.compilers import devices
from fusekit.plan.fast import extrapolated
from fusekit_tpu.topology import Topology

ROOT = Path(__file__).parents[2]
DEEP = {
    "clip": ("configs/zoo/paper/clip.yaml", ("image", "caption"), ()),
    "uniter": ("configs/zoo/paper/uniter.yaml", ("trunk",), ()),
    "lxmert": ("configs/zoo/paper/lxmert.yaml", ("regions_x", "text_x"), ()),
    "bottleneck": (
        "tests/plan/ninety.yaml",
        ("image", "audio"),
        ("fusion.bottleneck.into=[image@0.., audio@0..]", "mesh=null"),
    ),
}
"""Models, those of their stacks that are made deeper, and what else is set."""
MOST = {"flops": 0.02, "peak": 0.05, "components": 0.02}
"""How far from one each ratio may be."""


def compared(name: str, topology: Topology, rows: int, layers: int) -> dict[str, Any]:
    """Ratios of the fast plan to the exact one, and seconds."""
    path, stacks, given = DEEP[name]
    deep = [f"encoders.{stack}.depth={layers}" for stack in stacks]
    experiment = fusekit.load(ROOT / path, ["train.compute=bfloat16", *deep, *given])
    graph = fusekit.resolve(experiment)
    layout = Layout.of({"fsdp": topology.devices}, devices=devices(topology))

    def compiled(one: Graph) -> Measure:
        batch = rows * topology.devices
        return measure(one, layout, topology, batch=batch, layers="unroll")

    began = time.monotonic()
    fast = extrapolated(graph, compiled, lambda text: print(f"  {text}", flush=True))
    between = time.monotonic()
    exact = compiled(graph)
    ended = time.monotonic()
    if fast is None:
        raise SystemExit(f"{name}: nothing to shorten")
    return {
        "flops": round(fast.flops / exact.flops, 4),
        "peak": round(fast.peak / exact.peak, 4),
        "cycles": round(fast.cycles / exact.cycles, 4),
        "ici": round(sum(fast.ici.values()) / sum(exact.ici.values()), 4),
        "peak_gib": round(exact.peak / 2**30, 3),
        "state_gib": round(exact.state / 2**30, 3),
        "components": round(sum(exact.flops_of.values()) / exact.flops, 4),
        "fast_seconds": round(between - began, 1),
        "exact_seconds": round(ended - between, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(DEEP))
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--rows", type=int, default=16, help="rows a device")
    parser.add_argument("--layers", type=int, default=72, help="of each deep stack")
    given = parser.parse_args()
    topology, before = Topology.parse(given.topology), load()
    found: dict[str, Any] = {}
    for name in given.only.split(","):
        print(name, flush=True)
        found[name] = compared(name, topology, given.rows, given.layers)
        print(f"  {found[name]}", flush=True)
    missed = [
        f"{name}: {of} {one[of]}, off by more than {most:.0%}"
        for name, one in found.items()
        for of, most in MOST.items()
        if abs(one[of] - 1) > most
    ]
    of = {"topology": str(topology), "rows": given.rows, "layers": given.layers}
    raise SystemExit(report("fast_plan", {**of, "models": found}, failures=missed, before=before))


if __name__ == "__main__":
    main()

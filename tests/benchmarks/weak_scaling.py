"""Weak scaling on paper: one model on ever more chips, the same rows on each, by the compiler.

    python tests/benchmarks/weak_scaling.py [--config FILE] [--rows 4] [--chip v5e] [--fsdp 16]

`fsdp` stays within 16 chips and `data` grows. Prints a table for the docs; the last line is JSON.
"""

import argparse
from pathlib import Path
from typing import Any

from measuring import load, report

import fusekit
from fusekit.layout import Layout
from fusekit.plan.cache import Cache
from fusekit.plan.compiled import measure
from fusekit.plan.compilers import devices
from fusekit.plan.times import times, utilisation
from fusekit_tpu.topology import Topology

CONFIG = Path(__file__).parents[1] / "plan" / "ninety.yaml"
SHAPES = ("4x4", "4x8", "8x8", "8x16", "16x16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--rows", type=int, default=16, help="rows a chip")
    parser.add_argument("--chip", default="v5e")
    parser.add_argument("--fsdp", type=int, default=16)
    given = parser.parse_args()
    before = load()
    graph = fusekit.resolve(fusekit.load(given.config))
    print("| chips | rows | peak a chip | FLOPs a chip | sent a chip | step | MFU | found in |")
    print("|---|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for shape in SHAPES:
        topology = Topology.parse(f"{given.chip}:{shape}")
        chips = topology.devices
        sizes = {"data": chips // given.fsdp, "fsdp": given.fsdp}
        layout = Layout.of(sizes, devices=devices(topology))
        rows = given.rows * chips
        cost = measure(graph, layout, topology, batch=rows, layers="scan", cache=Cache())
        took = times(cost, topology)
        sent = sum(cost.ici.values())
        least, most = (utilisation(cost, t, topology) for t in (took.longest, took.shortest))
        print(
            f"| {chips} | {rows} | {cost.peak / 2**30:.2f} GiB | {cost.flops:.4g} "
            f"| {sent / 2**20:.0f} MiB | {took.shortest * 1e3:.1f} to {took.longest * 1e3:.1f} ms "
            f"| {least:.0%} to {most:.0%} | {cost.seconds:.0f} s |",
            flush=True,
        )
        found.append(
            {
                "chips": chips,
                "peak": cost.peak,
                "flops": cost.flops,
                "ici": {" x ".join(axes): size for axes, size in cost.ici.items()},
                "shortest_ms": took.shortest * 1e3,
                "longest_ms": took.longest * 1e3,
            }
        )
    figures = {"chip": given.chip, "rows": given.rows, "sizes": found}
    raise SystemExit(report("weak_scaling", figures, failures=[], before=before))


if __name__ == "__main__":
    main()

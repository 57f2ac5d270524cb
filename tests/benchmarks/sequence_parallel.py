"""What a long train step takes with attention round a ring, and with the partitioner alone.

    python tests/benchmarks/sequence_parallel.py [--length 8192] [--depth 2] [--topology v5e:2x4]

The step of an early-fusion model (width 512, eight heads, two rows, bfloat16), tokens split over
all chips, compiled for TPUs that are not there: nothing is run. The last line is JSON. With the
ring the peak of memory must be below half of the other.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))

from measuring import load, report

from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.plan.compiled import measure
from fusekit.plan.compilers import devices
from fusekit_modules.layers.place import Place
from fusekit_tpu.topology import Topology
from tests.support.long import early


@contextmanager
def without_ring() -> Iterator[None]:
    """Attention as it is where tokens are not split, whatever the mesh."""
    kept = Place.of
    Place.of = staticmethod(lambda *_: None)  # pyright: ignore[reportAttributeAccessIssue]
    yield
    Place.of = kept


def compiled(experiment: Any, topology: Topology) -> dict[str, float]:
    layout = Layout.of({"sequence": topology.devices}, devices=devices(topology))
    found = measure(resolve(experiment), layout, topology, batch=2, layers="unroll")
    return {
        "peak_bytes": found.peak,
        "fits": float(bool(found.fits)),
        "flops": found.flops,
        "hbm_bytes": found.hbm,
        "sent_bytes": float(sum(found.ici.values())),
        "compile_seconds": round(found.seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--topology", default="v5e:2x4")
    given = parser.parse_args()
    before = load()
    topology = Topology.parse(given.topology)
    experiment = early(
        given.length,
        trunk={"depth": given.depth, "causal": True},
        width=512,
        heads=8,
        batch=2,
        train={"batch": 2, "steps": 3, "compute": "bfloat16"},
    )
    ring = compiled(experiment, topology)
    print("ring", ring, flush=True)
    with without_ring():
        whole = compiled(experiment, topology)
    print("partitioner", whole, flush=True)
    share = ring["peak_bytes"] / whole["peak_bytes"]
    failures = [] if share < 0.5 else [f"the ring's peak is {share:.2f} of the partitioner's"]
    figures = {"length": given.length, "topology": given.topology}
    return report(
        "sequence_parallel",
        {**figures, "ring": ring, "partitioner": whole, "share_of_peak": share},
        failures=failures,
        before=before,
    )


if __name__ == "__main__":
    raise SystemExit(main())

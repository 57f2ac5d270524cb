"""Our operations on the CPU against what one would write in PyTorch: time and memory.

    PYTHONPATH=<site-packages of a CPU torch> python tests/benchmarks/ops_cpu.py [--times 15]

Float32, the same inputs, in one process, two threads each, some calls of one, then of the other,
after a pause: PyTorch's threads spin for a while after each call, and would take a core from what
comes next. Eager PyTorch is what users run; JAX is compiled, which is not counted. Numbers are
compared first. A ratio is ours over theirs, of medians and of the shortest times; it means nothing
where other processes want a core. Memory of ours is the compiler's temporaries and results; of
theirs how far a process of its own rises. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import torch

from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import gram, info_nce, siglip, symile
from fusekit_modules.ops.grouped_product import Sorted, grouped_product
from fusekit_modules.ops.linear_cross_entropy import linear_cross_entropy
from fusekit_modules.ops.low_rank import Factor, low_rank
from fusekit_modules.ops.selective_scan import selective_scan
from fusekit_modules.ops.ssd import ssd
from fusekit_modules.ops.stream_attention import Queries, Source, stream_attention
from tests.benchmarks import ops_cpu_torch as theirs
from tests.benchmarks.measuring import in_blocks, load, machine

CPU = Target("cpu")
LIMIT = 1e-4
"""On the relative distance of results and gradients."""


def ours(name: str, every: Any, given: Sequence[Any]) -> Any:
    """What an operation makes of the inputs that PyTorch's has; `every` row counts, or the numbers
    of rows' experts or classes."""
    if name == "stream_attention":
        count = len(theirs.STREAMS)
        pairs = zip(given[count::2], given[count + 1 :: 2], strict=True)
        streams, sources = [Queries(x) for x in given[:count]], [Source(*pair) for pair in pairs]
        outs = stream_attention(streams, sources, heads=theirs.HEADS, target=CPU)
        return jnp.concatenate(outs, axis=1)
    if name.startswith("low_rank"):
        count = (len(given) - 2) // 2
        factors = [Factor(f[:, 0], f[:, 1:]) for f in given[count : 2 * count]]
        return low_rank(given[:count], factors, *given[2 * count :], target=CPU)
    if name == "ssd":
        return ssd(*given, chunk=theirs.CHUNK)[0]
    if name == "selective_scan":
        return selective_scan(*given, target=CPU)[0]
    if name == "experts":
        return by_experts(every, *given)
    if name == "vocabulary":
        return linear_cross_entropy(*given, None, every, every >= 0)
    scale = jnp.float32(theirs.SCALE)
    if name == "info_nce":
        return jnp.stack(info_nce(*given, scale, every, every))
    if name == "siglip":
        return siglip(*given, scale, jnp.float32(theirs.BIAS), every)
    if name == "gram":
        return jnp.stack(gram(given[0], list(given[1:]), scale, every))
    return symile(given, scale, every)


def by_experts(assigned: Any, x: Any, gates: Any, up: Any, down: Any) -> Any:
    to = Sorted.by(assigned.reshape(-1), len(up))
    hidden = jax.nn.silu(grouped_product(to.spread(x, assigned.shape[1]), to.sizes, up))
    made = to.back(grouped_product(hidden, to.sizes, down))
    return jnp.sum(gates[..., None] * made.reshape(*gates.shape, -1), axis=1)


def both(name: str, every: Any, given: Sequence[Any]) -> Any:
    """The result and the gradients of its sum, by all inputs."""
    out, back = jax.vjp(lambda *given: ours(name, every, given), *given)
    return out, back(jnp.ones_like(out))


def distance(found: Any, due: Any) -> float:
    """The largest of any array, relative to what is due."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True)
    return max(
        float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / max(np.linalg.norm(b), 1e-12))
        for a, b in pairs
    )


def compared(name: str, direction: str, times: int) -> dict[str, Any]:
    arrays = theirs.TASKS[name][0]()
    tensors = [torch.from_numpy(x) for x in arrays]
    function: Callable[..., Any] = {"forward": ours, "both": both}[direction]
    given = [jnp.asarray(x) for x in arrays]
    numbers = {"experts": theirs.ASSIGNED, "vocabulary": theirs.LABELS}
    every = jnp.asarray(
        numbers.get(name, np.ones(len(given[0]), bool))
    )  # constants would be worked out
    program = jax.jit(partial(function, name)).lower(every, given).compile()
    memory = program.memory_analysis()
    calls = {
        "ours": lambda: program(every, given),
        "theirs": lambda: getattr(theirs, direction)(name, tensors),
    }
    row: dict[str, Any] = {"off": float(f"{distance(calls['ours'](), calls['theirs']()):.1e}")}
    if not row["off"] < LIMIT:
        return row | {"error": f"more than {LIMIT}, not timed"}
    took = in_blocks(calls, times=times)
    for who in calls:
        row[f"{who} ms"] = round(1e3 * median(took[who]), 3)
    row["ratio"] = round(median(took["ours"]) / median(took["theirs"]), 2)
    row["ratio of shortest"] = round(min(took["ours"]) / min(took["theirs"]), 2)
    used = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return row | {"ours mib": round(used / 2**20, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(theirs.TASKS))
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    before, figures = load(), {}
    script = Path(theirs.__file__)
    taken = subprocess.run(
        [sys.executable, str(script), *chosen.only], stdout=subprocess.PIPE, text=True, check=True
    )
    memory = json.loads(taken.stdout)
    for name in chosen.only:
        for direction in ("forward", "both"):
            row = compared(name, direction, chosen.times)
            row["theirs mib"] = memory[name][direction]
            figures[f"{name}, {direction}"] = row
            print(f"{name}, {direction}: {row}", flush=True)
    line = {"benchmark": "ops_cpu", "machine": machine(), "torch": torch.__version__}
    print(json.dumps({**line, "load": [before, load()], "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

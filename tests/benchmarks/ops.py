"""Our kernels on the GPU that is here, against XLA, cuDNN and PyTorch, and against the floor.

    python tests/benchmarks/ops.py [--only NAME ...] [--seconds 150] [--no-torch] [--no-sweep]

Of each case the numerics are held to the float32 reference first: what is wrong is not timed. What
a candidate cannot do is reported as its error. Times are medians of many rounds, of one set of
random inputs; a call works on several in turn, so that none finds its arrays in the cache, and
temporary memory is the call's. Floors are FLOPs and least bytes of the shapes over rates that were
measured on such a card; absent tokens count. The last line is JSON.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the card

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.bare import bare_modules

bare_modules()

import jax  # noqa: E402
from measuring import load, machine  # noqa: E402
from ops_stream_attention import stream_attention  # noqa: E402
from ops_timing import Clock, Task, measure  # noqa: E402

TASKS: dict[str, Callable[[Any], Iterable[tuple[str, Callable[[], Task]]]]] = {
    "stream_attention": stream_attention
}
"""Of each operation, a function of the arguments that names tasks and gives what makes them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="operations")
    parser.add_argument("--cases", nargs="*", type=int, help="numbers of cases of each operation")
    parser.add_argument("--seconds", type=float, default=140.0, help="after so long nothing begins")
    parser.add_argument("--sets", type=int, default=4, help="inputs that a call works on")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-sweep", action="store_true")
    parser.add_argument("--small", action="store_true", help="interpreted, to try this script")
    args = parser.parse_args()
    clock = Clock(args.seconds)
    figures: dict[str, Any] = {}
    for op, tasks in TASKS.items():
        if args.only and op not in args.only:
            continue
        for name, make in tasks(args):
            try:
                figures[f"{op}: {name}"] = measure(make(), clock)
            except Exception as error:
                figures[f"{op}: {name}"] = {"error": f"{type(error).__name__}: {error}"[:500]}
                print("ERROR", name, error, flush=True)
    line = {
        "benchmark": "ops",
        "machine": machine(),
        "kind": jax.devices()[0].device_kind,
        "load": load(),
        "seconds": round(clock.spent(), 1),
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "figures": figures,
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())

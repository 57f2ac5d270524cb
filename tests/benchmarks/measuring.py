"""What the benchmarks share: timing in turns, what the compiler says, one line of JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def load() -> float:
    """How many processes wanted a core in the last minute; timings mean little above the cores."""
    return round(os.getloadavg()[0], 2)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.devices()[0].platform,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "jax": jax.__version__,
    }


def costs(compiled: Any) -> dict[str, float]:
    """What an optimised program does: FLOPs, bytes touched, bytes of temporaries, code."""
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, (list, tuple)) else found
    memory = compiled.memory_analysis()
    return {
        "flops": found.get("flops", 0.0),
        "bytes": found.get("bytes accessed", 0.0),
        "transcendentals": found.get("transcendentals", 0.0),
        "temporaries": float(memory.temp_size_in_bytes),
        "arguments": float(memory.argument_size_in_bytes),
        "instructions": float(compiled.as_text().count(" = ")),
    }


def in_turns(
    runs: Mapping[str, Callable[[], Any]],
    *,
    times: int,
    warm: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, the candidates taking turns so that a busy machine slows all alike.

    Every second round goes backwards. Results are waited for. With `time.process_time` as the
    clock, processor time counts, of all threads: where a process has one core, that is what the
    call would take if nobody else wanted the core.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(times + warm):
        order = list(runs)[:: 1 if turn % 2 else -1]
        for name in order:
            start = clock()
            jax.block_until_ready(runs[name]())
            if turn >= warm:
                found[name].append(clock() - start)
    return found


def in_blocks(
    runs: Mapping[str, Callable[[], Any]], *, times: int, blocks: int = 3, pause: float = 0.1
) -> dict[str, list[float]]:
    """Seconds of each call, so many calls of one candidate, then of the next, in `blocks` rounds.

    Before each block there are a pause, in which threads that wait for more work fall asleep, and
    two calls that do not count. For libraries with threads of their own; else see `in_turns`.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(blocks):
        for name, run in runs.items():
            time.sleep(pause)
            for turn in range(-2, times):
                start = time.perf_counter()
                jax.block_until_ready(run())
                if turn >= 0:
                    found[name].append(time.perf_counter() - start)
    return found


def ratio_of_medians(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(ours) / statistics.median(theirs)


def random_batch(program: Any, size: int, *, seed: int = 0) -> dict[str, Any]:
    """A batch of noise: normal values, and codes among the classes."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name, node in program.graph.inputs.items():
        signature = node.spec.signature()
        shape = (size, *signature.shape)
        if signature.dtype == "int":
            found[name] = rng.integers(0, signature.classes, shape, dtype=np.int32)
        else:
            found[name] = rng.standard_normal(shape).astype(np.float32)
    return found


def report(name: str, figures: Any, *, failures: list[str], before: float) -> int:
    """Prints the failures, then everything as one line of JSON; gives the exit status."""
    for failure in failures:
        print(f"MISSED {failure}")
    line = {
        "benchmark": name,
        "machine": machine(),
        "load": [before, load()],
        "figures": figures,
        "missed": failures,
    }
    print(json.dumps(line))
    return 1 if failures else 0

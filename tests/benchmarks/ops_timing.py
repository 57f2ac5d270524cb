"""How the operations' candidates are checked and timed on one accelerator."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax

from fusekit_tpu.chips import CHIPS

ROUNDS = 15
ROUND_SECONDS = 0.02


class Clock:
    """What is left of the time that the whole script may take."""

    def __init__(self, seconds: float):
        self.start, self.seconds = time.monotonic(), seconds

    def spent(self) -> float:
        return time.monotonic() - self.start

    def over(self) -> bool:
        return self.spent() > self.seconds


@dataclass
class Pass:
    """What is timed together: `forward`, or `both` passes.

    Args:
      ours: JAX functions that must equal `due` to within `limit`.
      others: JAX functions that are only compared, to within ten times as much.
      torch: makes functions of one set's number; called after JAX is done.
      distance: of what a function gives for the first set from what is due.
      limit: on that distance.
      flops: of one set, at least.
      bytes: of one set, at least.
    """

    name: str
    ours: Mapping[str, Callable[..., Any]]
    others: Mapping[str, Callable[..., Any]]
    torch: Callable[[], Mapping[str, Callable[[int], Any]]]
    distance: Callable[[Any], float]
    limit: float
    flops: int
    bytes: int


@dataclass
class Task:
    """A case of an operation: sets of arguments, and its passes."""

    name: str
    sets: Sequence[Any]
    passes: Sequence[Pass] = field(default_factory=list)


def measure(task: Task, clock: Clock) -> dict[str, Any]:
    """By pass and candidate: milliseconds of one set, memory, distance, or the error."""
    return {one.name: _passed(task, one, clock) for one in task.passes}


def _passed(task: Task, one: Pass, clock: Clock) -> dict[str, Any]:
    kind = jax.devices()[0].device_kind
    chip = next((c for c in CHIPS.values() if c.reached_rate and kind.startswith(c.kind)), None)
    floor = None
    if chip is not None:
        floor = 1e3 * max(one.flops / chip.reached_flops, one.bytes / chip.reached_rate)
    rows: dict[str, Any] = {}
    with ThreadPoolExecutor(6) as pool:
        ready = {
            name: pool.submit(_compiled, call, task.sets, clock)
            for name, call in (*one.ours.items(), *one.others.items())
        }
        wait(ready.values())  # so that nothing compiles while something is timed
        for name, future in ready.items():
            limit = one.limit * (1 if name in one.ours else 10)
            rows[name] = _reported(partial(_jax, future, task, one, limit, clock))
    made = _reported(one.torch)
    if "error" in made:
        rows["torch"] = made
    else:
        for name, call in made.items():
            rows[name] = _reported(partial(_torch, call, len(task.sets), one, clock))
    best = min((rows[name]["ms"] for name in one.ours if "ms" in rows[name]), default=None)
    for name, row in rows.items():
        if "ms" in row:
            row["over_floor"] = floor and round(row["ms"] / floor, 2)
            row["over_ours"] = best and round(row["ms"] / best, 2)
        print(f"{task.name:28} {one.name:8} {name:14} {row}", flush=True)
    return {"floor_ms": floor and round(floor, 4), **rows}


def _reported(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:400]}


def _compiled(call: Callable[..., Any], sets: Sequence[Any], clock: Clock) -> Any:
    if clock.over():
        raise TimeoutError("the script's time is over")
    return jax.jit(lambda sets: [call(*given) for given in sets]).lower(sets).compile()


def _jax(future: Future[Any], task: Task, one: Pass, limit: float, clock: Clock) -> dict[str, Any]:
    program = future.result()
    distance = one.distance(program(task.sets)[0])
    if not distance < limit:
        return {"error": f"wrong: {distance:.2e} from the reference, limit {limit:.0e}"}
    row: dict[str, Any] = {"distance": float(f"{distance:.1e}")}
    row["temp_mib"] = round(program.memory_analysis().temp_size_in_bytes / 2**20, 1)
    seconds = timed(lambda: program(task.sets), jax.block_until_ready, clock)
    return row | milliseconds(seconds, len(task.sets))


def _torch(call: Callable[[int], Any], sets: int, one: Pass, clock: Clock) -> dict[str, Any]:
    import torch

    distance = one.distance(call(0))
    if not distance < 10 * one.limit:
        return {"error": f"wrong: {distance:.2e} from the reference"}

    def ready(_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    seconds = timed(lambda: [call(n) for n in range(sets)], ready, clock)
    return {"distance": float(f"{distance:.1e}")} | milliseconds(seconds, sets)


def timed(run: Callable[[], Any], ready: Callable[[Any], Any], clock: Clock) -> list[float]:
    """Seconds of a call, of many rounds; in a round calls follow one another unwaited for."""
    if clock.over():
        raise TimeoutError("the script's time is over")
    for _ in range(2):
        ready(run())
    start = time.perf_counter()
    ready(run())
    calls = max(2, min(50, int(ROUND_SECONDS / max(time.perf_counter() - start, 1e-6))))
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls - 1):
            run()
        ready(run())
        found.append((time.perf_counter() - start) / calls)
    return found


def milliseconds(seconds: Sequence[float], sets: int) -> dict[str, float]:
    per = [1e3 * s / sets for s in seconds]
    return {"ms": round(statistics.median(per), 4), "least_ms": round(min(per), 4)}

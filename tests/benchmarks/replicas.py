"""Several seeds: one program (vmap) against one after another (loop), compile time included.

    python tests/benchmarks/replicas.py [--quick] [--only vit mlp conv] [--seeds 1 4 16]

For the default config and for models with small perceptrons and with convolutions: seconds to
compile, seconds a step, and what a whole training of the config's length would take. `auto` may
take at most 10 % longer than the better choice. Each replica must equal the same seed alone. On a
GPU, 16 seeds of the default config may take at most 4 times as long as one.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measuring import in_turns, load, random_batch, report

import fusekit
from fusekit.program import Program

CONFIG = Path(__file__).parents[2] / "configs" / "base" / "av_digits.yaml"
ROWS, MOST, TOLERANCE, MOST_ON_GPU = 1400, 1.10, 1e-4, 4.0
CHANGES: dict[str, tuple[str, ...]] = {
    "vit": (),
    "mlp": (
        "modalities.image={type: features, width: 64}",
        "modalities.audio={type: features, width: 128}",
        "encoders.image={type: mlp, width: 48}",
        "encoders.audio={type: mlp, width: 48}",
        "fusion.joint.inputs=[image, audio]",
    ),
    "conv": (
        "encoders.image={type: resnet, width: 16, stages: [1, 1], norm: group, groups: 4}",
        "encoders.audio={type: resnet, width: 16, stages: [1, 1], norm: group, groups: 4}",
        "fusion.joint.inputs=[image.mean, audio.mean]",
    ),
}


def graph_of(model: str, *changes: str) -> Any:
    return fusekit.resolve(fusekit.load(CONFIG, (*CHANGES[model], *changes)))


def program_of(graph: Any, count: int, mode: str, steps: int) -> Program:
    return Program(graph, steps=steps, replicas=count, mode=mode)  # pyright: ignore


def compiled(graph: Any, count: int, mode: str, steps: int, batch: Any) -> tuple[Any, ...]:
    """The program, a state after one step, seconds of processor and of wall time to the first."""
    program = program_of(graph, count, mode, steps)
    state = program.init(0)
    jax.block_until_ready(jax.tree.leaves(getattr(state, "states", state)))
    cpu, wall = time.process_time(), time.perf_counter()
    state, metrics = program.step(state, batch)
    jax.block_until_ready(metrics)
    return program, state, time.process_time() - cpu, time.perf_counter() - wall


def difference(model: str, count: int, batch: Any, mode: str) -> float:
    """The largest relative difference of any parameter of the last replica and its seed alone,
    after three steps of SGD: Adam makes steps of full size of gradients that are rounding."""
    graph = graph_of(model, "train.optimizer={type: sgd, momentum: 0.9}")
    together, alone = program_of(graph, count, mode, 10), Program(graph, steps=10)
    state, single = together.init(0), alone.init(count - 1)
    with jax.default_matmul_precision("highest"):
        for _ in range(3):
            state, _ = together.step(state, batch)
            single, _ = alone.step(single, batch)
    one = alone.parameters(together.replica(state, count - 1))
    other, worst = alone.parameters(single), 0.0
    for path, value in other.items():
        gap = np.linalg.norm(np.asarray(one[path]) - np.asarray(value))
        worst = max(worst, float(gap / (np.linalg.norm(np.asarray(value)) + 1e-3)))
    return worst


def again(program: Program, states: dict[str, Any], mode: str, batch: Any) -> Any:
    """One more step of a mode's state; gives the metrics."""
    states[mode], metrics = program.step(states[mode], batch)
    return metrics


def measure(model: str, counts: list[int], *, times: int) -> dict[str, Any]:
    graph = graph_of(model)
    train = graph.experiment.train
    steps = round((train.epochs or 1) * ROWS / train.batch)
    found: dict[str, Any] = {"steps": steps}
    for count in counts:
        batch = random_batch(Program(graph), train.batch)
        made = {m: compiled(graph, count, m, steps, batch) for m in ("vmap", "loop")}
        states = {m: each[1] for m, each in made.items()}

        seconds = in_turns(
            {m: partial(again, made[m][0], states, m, batch) for m in made}, times=times, warm=1
        )
        step = {m: statistics.median(each) for m, each in seconds.items()}
        total = {m: made[m][3] + steps * step[m] for m in made}
        auto = "vmap" if program_of(graph, count, "auto", steps).vmapped else "loop"
        found[str(count)] = {
            "first_step_s": {m: round(made[m][3], 2) for m in made},
            "first_step_cpu_s": {m: round(made[m][2], 2) for m in made},
            "step_ms": {m: round(1e3 * s, 2) for m, s in step.items()},
            "training_s": {m: round(s, 1) for m, s in total.items()},
            "auto": auto,
            "auto_over_best": round(total[auto] / min(total.values()), 3) if count > 1 else 1.0,
            "difference": {m: difference(model, count, batch, m) for m in ("vmap", "loop")}
            if count == min(c for c in counts if c > 1 or len(counts) == 1)
            else None,
            "load": load(),
        }
        print(model, count, found[str(count)], flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 and 4 seeds, few steps")
    parser.add_argument("--only", nargs="*", default=list(CHANGES))
    parser.add_argument("--seeds", type=int, nargs="*")
    parser.add_argument("--times", type=int)
    args = parser.parse_args()
    counts = args.seeds or ([1, 4] if args.quick else [1, 4, 16])
    times = args.times or (3 if args.quick else 10)
    before, figures, failures = load(), {}, []
    for model in args.only:
        figures[model] = found = measure(model, counts, times=times)
        for count in map(str, counts):
            if found[count]["auto_over_best"] > MOST:
                failures.append(
                    f"{model}, {count} seeds: auto ({found[count]['auto']}) takes "
                    f"{found[count]['auto_over_best']} times the better"
                )
            for mode, gap in (found[count]["difference"] or {}).items():
                if gap > (TOLERANCE if mode == "vmap" else 0.0):
                    failures.append(f"{model}, {count} seeds, {mode}: not the seed alone, {gap}")
    if jax.default_backend() == "gpu" and {"1", "16"} <= set(figures.get("vit", ())):
        vit = figures["vit"]
        taken = {c: vit[c]["training_s"][vit[c]["auto"]] for c in ("1", "16")}
        vit["sixteen_over_one"] = ratio = round(taken["16"] / taken["1"], 2)
        if ratio > MOST_ON_GPU:
            failures.append(f"16 seeds of the default config take {ratio} times one")
    return report("replicas", figures, failures=failures, before=before)


if __name__ == "__main__":
    sys.exit(main())

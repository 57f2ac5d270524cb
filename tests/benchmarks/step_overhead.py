"""What the declarative form costs: a compiled step against the same model written by hand.

    python tests/benchmarks/step_overhead.py [--only early] [--times 50] [--batch 64] [--keep DIR]

For each strategy the configs of `configs/examples/digits` are compiled and compared with
`by_hand.py`: first the loss from the same parameters, then the optimised programs (FLOPs, bytes,
temporaries), then the median of interleaved steps. `--keep` writes both programs' HLO to a folder.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import by_hand
import jax
import numpy as np
from measuring import costs, in_turns, load, random_batch, ratio_of_medians, report

import fusekit
from fusekit.program import Program

CONFIGS = Path(__file__).parents[2] / "configs" / "examples" / "digits"
STEPS = 20
"""Few, so that the warm-up is short and the first steps already move the parameters."""
MOST = {"flops": 1.02, "bytes": 1.02, "temporaries": 1.05, "time": 1.10}
LOSS_TOLERANCE, LATER_TOLERANCE = 1e-5, 1e-3


def without_dropout(path: Path) -> Any:
    """The experiment of a config with every dropout at 0, as `by_hand.py` has it."""
    declared = fusekit.load(path)
    sets = [
        f"{section}.{name}.dropout=0"
        for section in ("encoders", "fusion")
        for name, spec in getattr(declared, section).items()
        if getattr(spec, "dropout", 0)
    ]
    return fusekit.load(path, sets)


def pair(name: str, size: int) -> tuple[Program, Any, Any, Any]:
    """Our program, the compiled steps (ours, by hand), and the batch on the device."""
    program = Program(fusekit.resolve(without_dropout(CONFIGS / f"{name}.yaml")), steps=STEPS)
    batch = jax.device_put(program.batch(random_batch(program, size)))
    plain = {entry: batch[entry].values for entry in ("image", "audio", "digit")}
    train = program.train
    flat = program.parameters(program.init(0))
    rate = train.schedule.build(STEPS)
    tx = by_hand.optimiser(by_hand.decayed(flat), lambda n: train.learning_rate * rate(n))
    step = jax.jit(by_hand.step_of(name, tx), donate_argnums=0)
    return program, tx, step, (batch, plain)


def compare(name: str, *, size: int, times: int, keep: Path | None) -> dict[str, Any]:
    """All figures of one strategy."""
    program, tx, step, (batch, plain) = pair(name, size)

    def fresh() -> Any:
        params = by_hand.nested(program.parameters(program.init(0)))
        return params, tx.init(params)

    state, hand = program.init(0), fresh()
    ours = program.compiled_step.lower(state, batch).compile()
    theirs = step.lower(hand, plain).compile()
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}.ours.hlo").write_text(ours.as_text())
        (keep / f"{name}.by_hand.hlo").write_text(theirs.as_text())
    losses = np.zeros((2, 5))
    for k in range(losses.shape[1]):
        state, mine = program.compiled_step(state, batch)
        hand, other = step(hand, plain)
        losses[:, k] = mine["loss"], other["loss"]
    box = {"ours": state, "by_hand": hand, "whole": program.init(0)}

    def run_ours() -> Any:
        box["ours"], metrics = program.compiled_step(box["ours"], batch)
        return metrics

    def run_by_hand() -> Any:
        box["by_hand"], metrics = step(box["by_hand"], plain)
        return metrics

    def run_whole() -> Any:
        box["whole"], metrics = program.step(box["whole"], batch)
        return metrics

    seconds = in_turns({"ours": run_ours, "by_hand": run_by_hand, "whole": run_whole}, times=times)
    cost = {"ours": costs(ours), "by_hand": costs(theirs)}
    ratios = {
        key: cost["ours"][key] / max(cost["by_hand"][key], 1.0)
        for key in ("flops", "bytes", "transcendentals", "temporaries", "instructions")
    }
    ratios["time"] = ratio_of_medians(seconds["ours"], seconds["by_hand"])
    ratios["time_with_batch"] = ratio_of_medians(seconds["whole"], seconds["by_hand"])
    return {
        "losses": [round(float(value), 4) for value in losses[0]],
        "loss_first": float(abs(losses[0, 0] - losses[1, 0])),
        "loss_later": float(np.abs(losses[0] - losses[1]).max()),
        "ratios": {key: round(value, 4) for key, value in ratios.items()},
        "ms": {key: round(1e3 * statistics.median(each), 3) for key, each in seconds.items()},
        "by_hand": cost["by_hand"],
        "load": load(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(by_hand.MODELS))
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    before, figures, failures = load(), {}, []
    for name in args.only:
        found = compare(name, size=args.batch, times=args.times, keep=args.keep)
        figures[name] = found
        print(f"{name:16}", found["ratios"], found["ms"], f"load {found['load']}", flush=True)
        if found["loss_first"] > LOSS_TOLERANCE:
            failures.append(f"{name}: the losses differ by {found['loss_first']:.2e}")
        if found["loss_later"] > LATER_TOLERANCE:
            failures.append(f"{name}: after a few steps they differ by {found['loss_later']:.2e}")
        failures += [
            f"{name}: {key} {found['ratios'][key]:.3f} > {most}"
            for key, most in MOST.items()
            if found["ratios"][key] > most
        ]
    return report("step_overhead", figures, failures=failures, before=before)


if __name__ == "__main__":
    sys.exit(main())

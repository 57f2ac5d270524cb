"""Plans against a GPU: the time and the memory of real train steps, beside what a plan says.

    python tests/benchmarks/plan_gpu.py [--cases vit bottleneck wide] [--steps 10] [--small]

Each case runs in a process of its own, since the peak of memory that a device tells is that of the
process. The last line is JSON. Where JAX's CUDA plugin cannot compile for a described GPU the plan
is by formulas alone, and says so.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

CASES = ("vit", "bottleneck", "wide")
GIB = 2**30


def experiment(case: str, small: bool) -> Any:
    """A ViT-B with a table; two ViT-B in lockstep by bottleneck tokens; a ViT of width 2048."""
    import fusekit

    width, heads, depth, batch = {
        "vit": (768, 12, 12, 128),
        "bottleneck": (768, 12, 12, 64),
        "wide": (2048, 16, 16, 64),
    }[case]
    side = 224
    if small:
        width, depth, batch, side = 64, 4, 8, 64
    vit = {"type": "vit", "patch": [16, 16], "depth": depth, "width": width, "heads": heads}
    vit = {**vit, "heads": 4 if small else heads, "readout": 1}
    sections: dict[str, Any] = {
        "modalities": {
            "image": {"type": "image", "shape": [side, side, 3]},
            "table": {"type": "features", "width": 64},
            "label": {"type": "label", "classes": 527},
        },
        "encoders": {"image": vit, "table": {"type": "mlp", "hidden": 512, "width": 512}},
        "fusion": {"joint": {"type": "concat", "inputs": ["image.readout", "table"]}},
    }
    if case == "bottleneck":
        sections["modalities"]["table"] = {"type": "spectrogram", "shape": [side, side]}
        sections["encoders"]["table"] = vit
        into = [f"image@{depth // 2}..", f"table@{depth // 2}.."]
        sections["fusion"] = {
            "exchange": {"type": "bottleneck", "into": into, "tokens": 4},
            "joint": {"type": "concat", "inputs": ["image.readout", "table.readout"]},
        }
    return fusekit.experiment(
        **sections,
        heads={"label": {"type": "classifier", "input": "joint", "classes": 527}},
        losses={"label": {"type": "cross_entropy", "prediction": "label", "target": "batch.label"}},
        data={"made": {"type": "synthetic"}},
        train={"batch": batch, "steps": 10, "compute": "bfloat16"},
        mesh={"layers": "scan", "kernel": "xla"},
    )


def rows(program: Any, count: int) -> dict[str, Any]:
    """A batch of random numbers on the device."""
    import jax
    import numpy as np

    from fusekit.batch import blank

    draw = np.random.default_rng(0)

    def one(leaf: Any) -> Any:
        if np.issubdtype(leaf.dtype, np.floating):
            return draw.standard_normal(leaf.shape, np.float32)
        return np.ones(leaf.shape, leaf.dtype)

    return jax.device_put(jax.tree.map(one, blank(program.model, count)))


def measured(made: Any, steps: int) -> dict[str, Any]:
    """Seconds of a step, the median, and the peak of memory of the device."""
    import jax
    import numpy as np

    from fusekit.graph import resolve
    from fusekit.program import Program

    device = jax.devices()[0]
    program = Program(resolve(made), steps=100)
    state, batch = program.init(), rows(program, made.train.batch)
    began = time.monotonic()
    step = program.compiled_step.lower(state, batch).compile()
    compiled, memory, taken = time.monotonic() - began, step.memory_analysis(), []
    for _ in range(steps + 2):
        began = time.monotonic()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        taken.append(time.monotonic() - began)
    stats = device.memory_stats() or {}
    given = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {
        "device": device.device_kind,
        "step_ms": 1e3 * float(np.median(taken[2:])),
        "compile_s": compiled,
        "peak_gib": stats.get("peak_bytes_in_use", 0) / GIB,
        "limit_gib": stats.get("bytes_limit", 0) / GIB,
        "program_gib": (given - memory.alias_size_in_bytes + memory.temp_size_in_bytes) / GIB,
        "loss": float(metrics["loss"]),
    }


def planned(made: Any, chip: str) -> dict[str, Any]:
    """What a plan for one such chip says, by formulas and by the compiler."""
    from fusekit.graph import resolve
    from fusekit.plan import Topology
    from fusekit.plan.analytic import analytic
    from fusekit.plan.compilers import NoCompilerError
    from fusekit.plan.plan import pricer, sizes_of
    from fusekit.plan.times import times
    from fusekit.plan.traced import traced_step

    topology = Topology.parse(f"{chip}:1")
    graph, sizes = resolve(made), sizes_of(made, topology)
    cost = analytic(graph, traced_step(graph, made.train.batch), sizes, topology)
    found: dict[str, Any] = {
        "formulas_ms": 1e3 * times(cost, topology).shortest,
        "formulas_gib": cost.peak / GIB,
        "flops": cost.flops,
    }
    try:
        price = pricer(graph, topology, sizes)("scan")
    except NoCompilerError as error:
        return {**found, "note": str(error)}
    return {
        **found,
        "compiled_ms": 1e3 * price.times.shortest,
        "compiled_gib": price.cost.peak / GIB,
        "fits": price.fits,
        "found_in_s": price.cost.seconds,
    }


def one(case: str, steps: int, small: bool, chip: str | None) -> dict[str, Any]:
    made = experiment(case, small)
    found = measured(made, steps)
    chip = chip or ("h200" if "H200" in found["device"] else "h100")
    try:
        found["plan"] = planned(made, chip)
    except Exception as error:  # a figure that was measured is told even so
        found["plan"] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    peak, flops = {"h100": 989e12, "h200": 989e12}[chip], found["plan"].get("flops", 0)
    return {"case": case, "chip": chip, "mfu": flops / peak / found["step_ms"] * 1e3, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="to try the script itself")
    parser.add_argument("--chip", choices=("h100", "h200"), help="default: as the device says")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.steps, given.small, given.chip)))
        return
    found = []
    for case in given.cases:
        command = [sys.executable, __file__, "--one", case, "--steps", str(given.steps)]
        command += ["--small"] * given.small + (["--chip", given.chip] if given.chip else [])
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
        if done.returncode:
            print(f"{case}: failed\n{done.stderr[-3000:]}", flush=True)
            found.append({"case": case, "error": done.stderr[-300:]})
            continue
        line = json.loads(done.stdout.splitlines()[-1])
        found.append(line)
        plan = line["plan"]
        print(
            f"{case}: step {line['step_ms']:.1f} ms measured, {plan.get('formulas_ms', 0):.1f} by "
            f"formulas, {plan.get('compiled_ms', 0):.1f} by its kernels; memory "
            f"{line['peak_gib']:.2f} GiB measured, {plan.get('formulas_gib', 0):.2f} by formulas, "
            f"{plan.get('compiled_gib', 0):.2f} planned by the compiler, "
            f"{line['program_gib']:.2f} of the real program; MFU {line['mfu']:.0%}; "
            f"{time.monotonic() - began:.0f} s {plan.get('note', plan.get('error', ''))}",
            flush=True,
        )
    print(json.dumps({"benchmark": "plan_gpu", "cases": found}))


if __name__ == "__main__":
    main()

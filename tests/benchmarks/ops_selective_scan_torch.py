"""The selective scan on this machine's CPU: the portable form against PyTorch, in turns.

    python tests/benchmarks/ops_selective_scan_torch.py [--shape 2 512 256 16] [--times 5]

`xla N` has N tokens a turn of its loops. PyTorch's loop is written as the reference of Mamba's
authors is: decays and inputs of all tokens at once, then a token after another. `doubling` combines
tokens 1, 2, 4, ... apart, all at once. In float32; results are compared first. The last line is
JSON.
"""

import argparse
import json
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.measuring import in_turns, load, machine
from tests.support.bare import bare_modules

bare_modules()

from fusekit_modules.ops.selective_scan import cases, xla  # noqa: E402
from fusekit_modules.ops.selective_scan.form import CHUNK, Given, given_of  # noqa: E402


def states(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Decays and inputs of all tokens, `[b, t, d, n]`."""
    delta = given["delta"][..., None]
    return torch.exp(delta * given["a"]), delta * given["x"][..., None] * given["into"][:, :, None]


def loop(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    decays, added = states(given)
    state, found = given["state"], []
    for t in range(decays.shape[1]):
        state = decays[:, t] * state + added[:, t]
        found.append(torch.einsum("bdn,bn->bd", state, given["out"][:, t]))
    return torch.stack(found, 1), state


def doubling(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    decays, added = states(given)
    step = 1
    while step < decays.shape[1]:
        later = added[:, step:] + decays[:, step:] * added[:, :-step]
        added = torch.cat([added[:, :step], later], 1)
        decays = torch.cat([decays[:, :step], decays[:, step:] * decays[:, :-step]], 1)
        step *= 2
    every = added + decays * given["state"][:, None]
    return torch.einsum("btdn,btn->btd", every, given["out"]), every[:, -1]


def by_torch(call: Any, given: dict[str, Any], grads: Any, *, both: bool) -> Any:
    """A function without arguments; all are arrays of NumPy."""
    leaves = {name: torch.tensor(np.asarray(v)).requires_grad_(both) for name, v in given.items()}
    slopes = [torch.tensor(np.asarray(g)) for g in grads]

    def run() -> Any:
        with torch.set_grad_enabled(both):
            found = call(leaves)
        back = torch.autograd.grad(found, list(leaves.values()), slopes) if both else ()
        return [v.detach().numpy() for v in (*found, *back)]

    return run


def ours(unroll: int, given: dict[str, Any], grads: Any, *, both: bool) -> Any:
    """As `by_torch`; gradients in the same order."""
    whole = given_of(**given, reset=None, valid=None)
    turned = grads[0], jnp.swapaxes(grads[1], 1, 2)

    @jax.jit
    def call(given: Given, grads: Any) -> Any:
        found = xla.forward(given, keep=both, unroll=unroll)
        results = found.y, jnp.swapaxes(found.state, 1, 2)
        if not both:
            return results
        back = xla.backward(given, found.kept, grads, unroll=unroll)
        of_state = jnp.swapaxes(back.state, 1, 2)
        return *results, back.x, back.delta, back.a.T, back.into, back.out, of_state

    program = call.lower(whole, turned).compile()
    return lambda: program(whole, turned)


def off(found: Any, due: Any) -> float:
    return float(np.linalg.norm(found - due) / np.linalg.norm(due))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=4, default=[2, 512, 256, 16])
    parser.add_argument("--times", type=int, default=5)
    chosen = parser.parse_args()
    given, _ = cases.arrays(cases.Case("timed", *chosen.shape))
    rng = np.random.default_rng(1)
    grads = [jnp.asarray(rng.standard_normal(given[k].shape), jnp.float32) for k in ("x", "state")]
    report: dict[str, Any] = {"benchmark": "ops_selective_scan_torch", "shape": chosen.shape}
    report |= {"machine": machine(), "torch": torch.__version__, "load": [load()], "chunk": CHUNK}
    for both in (False, True):
        runs = {f"xla {n}": ours(n, given, grads, both=both) for n in (xla.UNROLL_CPU, xla.UNROLL)}
        runs["torch loop"] = by_torch(loop, given, grads, both=both)
        runs["torch doubling"] = by_torch(doubling, given, grads, both=both)
        due = runs["torch loop"]()
        worst = max(off(f, d) for run in runs.values() for f, d in zip(run(), due, strict=True))
        seconds = in_turns(runs, times=chosen.times, warm=1)
        median = {name: 1e3 * statistics.median(found) for name, found in seconds.items()}
        mine = median[f"xla {xla.UNROLL_CPU}"]
        found = {"ms": {name: round(ms, 2) for name, ms in median.items()}, "off": worst}
        found["times as long"] = {name: round(ms / mine, 2) for name, ms in median.items()}
        report["both" if both else "forward"] = found
        print(found, flush=True)
    report["load"].append(load())
    print(json.dumps(report))


if __name__ == "__main__":
    main()

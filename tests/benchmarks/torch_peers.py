"""Fusions against the straightforward PyTorch modules one would write, on one CPU.

    PYTHONPATH=<site-packages of a CPU torch> python tests/benchmarks/torch_peers.py [--times 30]

Forward and backward (gradients of parameters and inputs, of the summed squares of what comes out)
of equal sizes, in float32, in turns in one process that is pinned to one core: with more threads
than free cores the two thread pools disturb each other, and PyTorch's far more. Processor time is
counted, so that other processes matter little. Eager PyTorch is what users run; JAX is compiled,
as fusekit always is. Compilation is not counted.

A ratio above 1 is explained where one plain dense layer (`dense`, measured beside the others) has
the same: then it is XLA's product of matrices on a CPU that is slower than oneDNN's, and nothing
that fusekit adds.
"""

import os

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from measuring import in_turns, load, ratio_of_medians, report
from torch import Tensor, nn
from torch_block import Layer

from fusekit.context import Context
from fusekit.layered import Edit, Edits
from fusekit.standalone import standalone
from fusekit.stream import Span, Stream, sequence, vector
from fusekit_modules.fusion.low_rank_tensor import LowRankTensorSpec
from fusekit_modules.fusion.pairwise_attention import PairwiseAttentionSpec
from fusekit_modules.fusion.tensor import TensorSpec
from fusekit_modules.layers.block import Block
from fusekit_modules.layers.linear import Linear

MOST_OVER_DENSE = 1.15


class LowRank(nn.Module):
    """Liu et al. 2018: factors `[rank, d + 1, width]`, a one before each input."""

    def __init__(self, widths: tuple[int, ...], width: int, rank: int):
        super().__init__()
        self.factors = nn.ParameterList(
            [nn.Parameter(0.1 * torch.randn(rank, w + 1, width)) for w in widths]
        )
        self.mix = nn.Parameter(torch.randn(rank))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, *xs: Tensor) -> Tensor:
        one = torch.ones(len(xs[0]), 1)
        product: Any = 1.0
        for x, factor in zip(xs, self.factors, strict=True):
            product = product * torch.matmul(torch.cat([one, x], 1), factor)
        return torch.einsum("r,rbo->bo", self.mix, product) + self.bias


class Outer(nn.Module):
    """Zadeh et al. 2017: the outer product of all inputs, a one before each."""

    def forward(self, *xs: Tensor) -> Tensor:
        one = torch.ones(len(xs[0]), 1)
        out = one
        for x in xs:
            out = torch.einsum("bi,bj->bij", out, torch.cat([one, x], 1)).flatten(1)
        return out


class Bottlenecks(nn.Module):
    """Nagrani et al. 2021: two stacks whose layers share tokens, averaged after each."""

    def __init__(self, width: int, heads: int, depth: int, count: int):
        super().__init__()
        self.a = nn.ModuleList([Layer(width, heads, F.gelu) for _ in range(depth)])
        self.b = nn.ModuleList([Layer(width, heads, F.gelu) for _ in range(depth)])
        self.tokens = nn.Parameter(0.02 * torch.randn(count, width))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = self.tokens.expand(len(x), -1, -1)
        count = z.shape[1]
        for one, other in zip(self.a, self.b, strict=True):
            x, y = one(torch.cat([x, z], 1)), other(torch.cat([y, z], 1))
            z = (x[:, -count:] + y[:, -count:]) / 2
            x, y = x[:, :-count], y[:, :-count]
        return x, y


class Pairwise(nn.Module):
    """Tsai et al. 2019: each of two sequences reads the other, then itself; the last tokens."""

    def __init__(self, widths: tuple[int, int], width: int, heads: int, depth: int, after: int):
        super().__init__()
        self.project = nn.ModuleList([nn.Linear(w, width, bias=False) for w in widths])

        def stack(layers: int) -> nn.ModuleList:
            return nn.ModuleList([Layer(width, heads, F.relu) for _ in range(layers)])

        self.cross = nn.ModuleList([stack(depth) for _ in widths])
        self.own = nn.ModuleList([stack(after) for _ in widths])
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6) for _ in range(4)])
        self.width = width

    def placed(self, x: Tensor) -> Tensor:
        half = self.width // 2
        rates = torch.exp(-math.log(1e4) * torch.arange(half) / (half - 1))
        angles = torch.arange(1, 1 + x.shape[1])[:, None] * rates
        return math.sqrt(self.width) * x + torch.cat([angles.sin(), angles.cos()], 1)

    def forward(self, *given: Tensor) -> Tensor:
        xs = [self.placed(p(x)) for p, x in zip(self.project, given, strict=True)]
        last = []
        for k, (x, y) in enumerate((xs, xs[::-1])):
            for layer in self.cross[k]:
                x = layer(x, y)
            x = self.placed(self.norms[k](x))
            for layer in self.own[k]:
                x = layer(x)
            last.append(self.norms[2 + k](x)[:, -1])
        return torch.cat(last, 1)


class OurDense(nnx.Module):
    """One dense layer."""

    def __init__(self, width: int, out: int, *, rngs: nnx.Rngs):
        self.linear = Linear(width, out, axes=("embed", "mlp"), rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        (x,) = streams.values()
        return x.with_(values=self.linear(x.values))


class OurBottlenecks(nnx.Module):
    """The same of our blocks and the edit that the operator `bottleneck` makes of them."""

    def __init__(self, width: int, heads: int, depth: int, count: int, *, rngs: nnx.Rngs):
        def stack() -> nnx.List:
            return nnx.List(
                [Block(width, heads, hidden=4 * width, rngs=rngs) for _ in range(depth)]
            )

        self.a, self.b = stack(), stack()
        self.tokens = nnx.Param(0.02 * jax.random.normal(rngs.params(), (count, width)))

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> list[Stream]:
        x, y = streams.values()
        z = jnp.broadcast_to(self.tokens[...], (x.batch, *self.tokens.shape))
        for one, other in zip(self.a, self.b, strict=True):
            edit = Edits((Edit(tokens=Stream(z, spans=(Span("z", z.shape[1]),))),))
            first, second = one(x, edit, context=context), other(y, edit, context=context)
            extras = [e.values for e in (*first.extras, *second.extras) if e is not None]
            z, x, y = jnp.mean(jnp.stack(extras, 1), 1), first.stream, second.stream
        return [x, y]


def cases() -> dict[str, tuple[nn.Module, nnx.Module, list[np.ndarray]]]:
    """By name: their module, ours, and the inputs."""
    rng, rngs = np.random.default_rng(0), nnx.Rngs(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def ours(spec: Any, given: list[np.ndarray]) -> nnx.Module:
        signatures = {
            f"x{k}": vector(x.shape[1]) if x.ndim == 2 else sequence(*x.shape[1:], label=f"x{k}")
            for k, x in enumerate(given)
        }
        return standalone(spec, signatures, rngs=rngs)

    wide = [noise(64, 128) for _ in range(3)]
    small = [noise(64, 32) for _ in range(3)]
    tokens = [noise(32, 50, 64), noise(32, 64, 64)]
    inputs: Any = ("x0", "x1", "x2")
    pairwise = {"width": 64, "heads": 4, "depth": 4, "self_depth": 3}
    return {
        "dense": (nn.Linear(64, 256), OurDense(64, 256, rngs=rngs), tokens[1:]),
        "low_rank_tensor": (
            LowRank((128, 128, 128), 128, 8),
            ours(LowRankTensorSpec(inputs=inputs, width=128, rank=8), wide),
            wide,
        ),
        "tensor": (Outer(), ours(TensorSpec(inputs=inputs), small), small),
        "pairwise_attention": (
            Pairwise((64, 64), 64, 4, 4, 3),
            ours(PairwiseAttentionSpec(inputs=inputs[:2], **pairwise), tokens),  # pyright: ignore
            tokens,
        ),
        "bottleneck": (
            Bottlenecks(64, 4, 4, 4),
            OurBottlenecks(64, 4, 4, 4, rngs=rngs),
            tokens,
        ),
    }


def torch_call(module: nn.Module, given: list[np.ndarray]) -> Callable[[], Any]:
    inputs = [torch.from_numpy(x.copy()).requires_grad_() for x in given]

    def call() -> list[Any]:
        module.zero_grad(set_to_none=True)
        for x in inputs:
            x.grad = None
        out = module(*inputs)
        outs = out if isinstance(out, tuple) else (out,)
        sum((o * o).sum() for o in outs).backward()
        return []

    return call


def jax_call(module: nnx.Module, given: list[np.ndarray]) -> Callable[[], Any]:
    graph, params = nnx.split(module)
    inputs = {f"x{k}": jnp.asarray(x) for k, x in enumerate(given)}

    def loss(params: Any, inputs: dict[str, Any]) -> Any:
        streams = {
            name: Stream(x, spans=(Span(name, x.shape[1]),) if x.ndim == 3 else ())
            for name, x in inputs.items()
        }
        out = nnx.merge(graph, params)(streams, context=Context(mode="train"))  # pyright: ignore
        outs = out if isinstance(out, list) else [out["out"] if isinstance(out, dict) else out]
        return sum(jnp.sum(o.values * o.values) for o in outs)

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return lambda: compiled(params, inputs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    before, figures, failures = load(), {}, []
    for name, (theirs, ours, given) in cases().items():
        if args.only and name not in ("dense", *args.only):
            continue
        count = sum(p.numel() for p in theirs.parameters())
        mine = sum(x.size for x in jax.tree.leaves(nnx.state(ours)))
        calls = {"ours": jax_call(ours, given), "torch": torch_call(theirs, given)}
        seconds = in_turns(calls, times=args.times, clock=time.process_time)
        ratio = ratio_of_medians(seconds["ours"], seconds["torch"])
        figures[name] = {
            "parameters": [mine, count],
            "ms": {k: round(1e3 * statistics.median(s), 3) for k, s in seconds.items()},
            "ratio": round(ratio, 3),
            "ratio_of_best": round(min(seconds["ours"]) / min(seconds["torch"]), 3),
            "load": load(),
        }
        print(f"{name:20}", figures[name], flush=True)
        if mine != count:
            failures.append(f"{name}: {mine} parameters against {count}")
        if ratio > max(1.0, MOST_OVER_DENSE * figures["dense"]["ratio"]):
            failures.append(f"{name}: {ratio:.2f} times PyTorch's time")
    figures["threads"] = torch.get_num_threads()
    return report("torch_peers", figures, failures=failures, before=before)


if __name__ == "__main__":
    sys.exit(main())

"""Stream attention in PyTorch, for the benchmark of operations."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def candidates(
    form: Any, sets: Sequence[Any], *, compiled: bool, both: bool
) -> dict[str, Callable[[int], Any]]:
    """Functions of a set's number: written out, by SDPA, and what torch.compile makes of both."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = [_moved(one, device) for one in sets]
    outs = partial(_outs, form.reads, form.heads, form.scale)
    calls: dict[str, Any] = {
        "torch_eager": partial(outs, _plain),
        "torch_sdpa": partial(outs, _sdpa),
    }
    if compiled:
        torch._dynamo.reset()
        calls["torch_compile"] = torch.compile(partial(outs, _plain), dynamic=False)
    run = _both if both else _forward
    return {name: partial(run, call, given) for name, call in calls.items()}


def _moved(one: Any, device: str) -> Any:
    queries, sources, grads = one

    def floats(array: Any) -> Tensor:
        found = torch.from_numpy(np.array(array, np.float32)).to(device)
        return found.to(torch.bfloat16).requires_grad_()

    def mask(array: Any) -> Tensor | None:
        return None if array is None else torch.from_numpy(np.array(array)).to(device)

    values = [(floats(q.values), mask(q.mask)) for q in queries]
    pairs = [(floats(s.key), floats(s.value), mask(s.mask)) for s in sources]
    return values, pairs, [floats(g).detach() for g in grads]


def _forward(call: Any, given: Any, number: int) -> list[Tensor]:
    values, pairs, _ = given[number]
    with torch.no_grad():
        return call(values, pairs)


def _both(call: Any, given: Any, number: int) -> Any:
    values, pairs, grads = given[number]
    outs = call(values, pairs)
    kept = [g if m is None else g * m[..., None] for g, (_, m) in zip(grads, values, strict=True)]
    leaves = [v for v, _ in values] + [a for k, v, _ in pairs for a in (k, v)]
    found = torch.autograd.grad(outs, leaves, kept)
    rest = found[len(values) :]
    return outs, (list(found[: len(values)]), list(zip(rest[::2], rest[1::2], strict=True)))


def _outs(reads: Any, heads: int, scale: float, call: Any, values: Any, pairs: Any) -> Any:
    found = []
    for (query, _), read in zip(values, reads, strict=True):
        key, value, mask = pairs[read[0]]
        if len(read) > 1:
            key, value = (torch.cat([pairs[n][i] for n in read], 1) for i in (0, 1))
            masks = [
                torch.ones(pairs[n][0].shape[:2], dtype=torch.bool, device=key.device)
                if pairs[n][2] is None
                else pairs[n][2]
                for n in read
            ]
            mask = None if all(pairs[n][2] is None for n in read) else torch.cat(masks, 1)
        if mask is not None:
            mask = mask[:, None, None, :]
        found.append(call(query, key, value, mask, heads, scale))
    return found


def _heads(array: Tensor, heads: int) -> Tensor:
    return array.unflatten(2, (heads, -1)).transpose(1, 2)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Any, heads: int, scale: float) -> Tensor:
    q, k, v = _heads(q, heads), _heads(k, heads), _heads(v, heads)
    scores = (q @ k.transpose(2, 3)).float() * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30)
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Any, heads: int, scale: float) -> Tensor:
    q, k, v = _heads(q, heads), _heads(k, heads), _heads(v, heads)
    if mask is not None:
        mask = mask.expand(-1, -1, q.shape[2], -1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.transpose(1, 2).flatten(2)

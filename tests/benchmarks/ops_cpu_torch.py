"""What one would write of our operations in PyTorch, and how much memory that takes.

    python tests/benchmarks/ops_cpu_torch.py [OPERATION ...]

Prints, as JSON, mebibytes by operation and direction: how far the resident memory of a process of
its own rises, from the inputs on, while it runs once. Knows nothing of JAX.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Tensors = Sequence[torch.Tensor]
Task = tuple[Callable[[], list[np.ndarray]], Callable[[Tensors], torch.Tensor]]
SCALE = 1 / 0.07
HEADS, STREAMS, SHARED = 4, (64, 128), 4
BIAS = -10.0
CHUNK = 128
ROWS, EXPERTS, VOCABULARY = 1024, 8, 16384


def normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def units(count: int, rows: int, width: int) -> list[np.ndarray]:
    """Vectors that agree somewhat."""
    first, *noise = normal(*[(rows, width)] * count)
    each = [first, *(first + 2 * more for more in noise)]
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in each]


def attention() -> list[np.ndarray]:
    """Queries of two streams, then keys and values of these and of shared tokens; 128 wide."""
    lengths = [*STREAMS, *(n for n in (*STREAMS, SHARED) for _ in "kv")]
    return normal(*((8, n, 128) for n in lengths))


def low_rank(widths: Sequence[int], rows: int, rank: int, out: int) -> list[np.ndarray]:
    """Vectors, factors with the row of the one in front, weights of ranks and a bias."""
    vectors = normal(*((rows, width) for width in widths))
    factors = [f / f.shape[1] ** 0.5 for f in normal(*((rank, w + 1, out) for w in widths))]
    return [*vectors, *factors, *normal((rank,), (out,))]


def by_attention(given: Tensors) -> torch.Tensor:
    def cut(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2)

    count, outs = len(STREAMS), []
    for n, query in enumerate(given[:count]):
        key, value = (
            torch.cat([given[count + 2 * n + at], given[3 * count + at]], 1) for at in (0, 1)
        )
        mixed = F.scaled_dot_product_attention(cut(query), cut(key), cut(value))
        outs.append(mixed.transpose(1, 2).flatten(2))
    return torch.cat(outs, 1)


def by_info_nce(given: Tensors) -> torch.Tensor:
    scores = SCALE * given[0] @ given[1].T
    own = torch.arange(len(scores))
    each = [F.cross_entropy(s, own, reduction="none") for s in (scores, scores.T)]
    return torch.stack(each)


def by_siglip(given: Tensors) -> torch.Tensor:
    scores = SCALE * given[0] @ given[1].T + BIAS
    signs = 2 * torch.eye(len(scores)) - 1
    return -F.logsigmoid(signs * scores).sum(1)


def by_gram(given: Tensors) -> torch.Tensor:
    """Cicchetti et al. 2025: the determinants of all pairs' Gram matrices."""
    anchor, *others = given
    size, count = len(anchor), len(given)
    rows = [[(a * b).sum(1).expand(size, -1) for b in others] for a in others]
    cross = [anchor @ other.T for other in others]
    length = (anchor * anchor).sum(1)[:, None].expand(-1, size)
    flat = [length, *cross] + [x for c, row in zip(cross, rows, strict=True) for x in (c, *row)]
    matrices = torch.stack(flat, -1).unflatten(2, (count, count))
    scores = -SCALE * torch.sqrt(torch.abs(torch.det(matrices)) + 1e-12)
    own = torch.arange(size)
    return torch.stack([F.cross_entropy(s, own, reduction="none") for s in (scores, scores.T)])


def by_symile(given: Tensors) -> torch.Tensor:
    """Saporta et al. 2024: every combination of the other two's rows is a negative."""
    total = torch.zeros(len(given[0]))
    for n, anchor in enumerate(given):
        one, two = (x for m, x in enumerate(given) if m != n)
        scores = SCALE * anchor @ (one[:, None] * two).flatten(0, 1).T
        own = torch.arange(len(anchor)) * (len(anchor) + 1)
        total = total + F.cross_entropy(scores, own, reduction="none")
    return total / len(given)


def by_low_rank(given: Tensors) -> torch.Tensor:
    """Liu et al. 2018, as its authors do it: factors of all ranks at once."""
    count = (len(given) - 2) // 2
    vectors, factors, (mix, bias) = given[:count], given[count : 2 * count], given[2 * count :]
    product: Any = 1
    for x, factor in zip(vectors, factors, strict=True):
        product = product * torch.matmul(torch.cat([torch.ones(len(x), 1), x], 1), factor)
    return torch.einsum("r,rbo->bo", mix, product) + bias


def scanned(rows: int, time: int, heads: int, width: int, states: int) -> list[np.ndarray]:
    """x, decays by head, and what writes into states and reads them."""
    x, decay, into, out = normal(
        (rows, time, heads, width), (rows, time, heads), *[(rows, time, 1, states)] * 2
    )
    return [x, -0.1 * abs(decay), into / states**0.5, out]


def by_ssd(given: Tensors) -> torch.Tensor:
    """Dao and Gu 2024: products of matrices within chunks, a loop over the states between them."""
    chunks = [x.unflatten(1, (-1, CHUNK)) for x in given]
    x, decay, into, out = (
        chunks[0],
        chunks[1].cumsum(2),
        chunks[2][:, :, :, 0],
        chunks[3][..., 0, :],
    )
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)[..., None]
    between = (decay[:, :, :, None] - decay[:, :, None]).masked_fill(later, -torch.inf).exp()
    mix = torch.einsum("bcln,bcsn->bcls", out, into)[..., None] * between
    within = torch.einsum("bclsh,bcshp->bclhp", mix, x)
    last = decay[:, :, -1:]
    written = torch.einsum("bcsn,bcshp->bchpn", into, (last - decay).exp()[..., None] * x)
    state, before = torch.zeros_like(written[:, 0]), []
    for n in range(written.shape[1]):
        before.append(state)
        state = last[:, n, 0].exp()[..., None, None] * state + written[:, n]
    read = torch.einsum("bcln,bchpn->bclhp", out, torch.stack(before, 1))
    return (within + decay.exp()[..., None] * read).flatten(1, 2)


def selected(rows: int, time: int, width: int, states: int) -> list[np.ndarray]:
    """x, steps, decays, and what writes into states and reads them."""
    x, delta, a, into, out = normal(
        (rows, time, width), (rows, time, width), (width, states), *[(rows, time, states)] * 2
    )
    return [x, 0.1 * abs(delta), -abs(a) - 0.1, into, out]


def by_selective_scan(given: Tensors) -> torch.Tensor:
    """As the reference of Gu and Dao 2023 is: a token after another."""
    x, delta, a, into, out = given
    decays = torch.exp(delta[..., None] * a)
    added = (delta * x)[..., None] * into[:, :, None]
    state, found = torch.zeros_like(added[:, 0]), []
    for t in range(x.shape[1]):
        state = decays[:, t] * state + added[:, t]
        found.append(torch.einsum("bdn,bn->bd", state, out[:, t]))
    return torch.stack(found, 1)


def experts(width: int, hidden: int) -> list[np.ndarray]:
    """Rows, the weights of their two experts, and what experts multiply with."""
    x, gates, up, down = normal(
        (ROWS, width), (ROWS, 2), (EXPERTS, width, hidden), (EXPERTS, hidden, width)
    )
    return [x, gates, up / width**0.5, down / hidden**0.5]


def by_experts(given: Tensors) -> torch.Tensor:
    """Each expert gathers its rows and adds what it makes of them."""
    x, gates, up, down = given
    assigned, out = torch.from_numpy(ASSIGNED), torch.zeros_like(x)
    for n in range(EXPERTS):
        row, copy = torch.where(assigned == n)
        made = F.silu(x[row] @ up[n]) @ down[n]
        out = out.index_add(0, row, gates[row, copy, None] * made)
    return out


def vocabulary(width: int) -> list[np.ndarray]:
    features, kernel = normal((ROWS, width), (width, VOCABULARY))
    return [features, kernel / width**0.5]


def by_vocabulary(given: Tensors) -> torch.Tensor:
    return F.cross_entropy(given[0] @ given[1], torch.from_numpy(LABELS), reduction="none")


ASSIGNED = np.random.default_rng(1).permuted(np.tile(np.arange(EXPERTS), (ROWS, 1)), axis=1)[:, :2]
LABELS = np.random.default_rng(1).integers(0, VOCABULARY, ROWS)
TASKS: dict[str, Task] = {
    "stream_attention": (attention, by_attention),
    "info_nce": (lambda: units(2, 1024, 256), by_info_nce),
    "siglip": (lambda: units(2, 1024, 256), by_siglip),
    "gram": (lambda: units(3, 512, 128), by_gram),
    "symile": (lambda: units(3, 96, 128), by_symile),
    "low_rank": (lambda: low_rank((128,) * 3, 512, 4, 128), by_low_rank),
    "low_rank, rank 16": (lambda: low_rank((256,) * 4, 2048, 16, 256), by_low_rank),
    "ssd": (lambda: scanned(2, 1024, 4, 64, 64), by_ssd),
    "selective_scan": (lambda: selected(2, 256, 256, 16), by_selective_scan),
    "experts": (lambda: experts(256, 1024), by_experts),
    "vocabulary": (lambda: vocabulary(256), by_vocabulary),
}
"""Of each operation what makes its inputs, and what it makes of them."""


def forward(name: str, given: Tensors) -> Any:
    with torch.no_grad():
        return TASKS[name][1](given)


def both(name: str, given: Tensors) -> Any:
    """The result and the gradients of its sum, by all inputs."""
    given = [x.detach().requires_grad_() for x in given]
    out = TASKS[name][1](given)
    return out.detach(), torch.autograd.grad(out, given, torch.ones_like(out))


def _status(field: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def risen(name: str, call: Callable[..., Any]) -> float:
    """Mebibytes by which a process rises that makes the inputs and calls once."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(2)
        given = [torch.from_numpy(x) for x in TASKS[name][0]()]
        both("info_nce", [torch.ones(8, 8)] * 2)  # threads and libraries
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forgets the peak
        before = _status("VmRSS")
        call(name, given)
        os.write(write, f"{_status('VmHWM') - before:.1f}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    return float(os.read(read, 64))


def main() -> int:
    names = sys.argv[1:] or list(TASKS)
    found = {n: {call.__name__: risen(n, call) for call in (forward, both)} for n in names}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Operators that act inside one block, one sample at a time, in float64."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tests.reference.operators import reading
from tests.reference.transformer import Arrays, attention, block, mlp, norm, tower

Form = Callable[[Arrays, str, np.ndarray, dict], np.ndarray]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def edited(form: Form, lengths: Sequence[int], width: int) -> Callable[[Arrays, dict], dict]:
    """A reference of stacks of one block each; `form(p, own, x, xs)` is an edited block, and `own`
    ends with the number of the stack. What is read has the numbers after the stacks'."""

    def reference(p: Arrays, xs: dict) -> dict:
        out = {f"m{k}": np.zeros((n, width)) for k, n in enumerate(lengths)}
        for k, x in xs.items():
            if k < len(lengths):
                out[f"m{k}"][: len(x)] = form(p, f"stacks.{k}.0.", x, xs)
        return out

    return reference


def shifted(p: Arrays, own: str, deltas: Mapping[str, np.ndarray]) -> Arrays:
    """Parameters whose kernels have these deltas, flat in inputs and outputs."""
    found = dict(p)
    for name, delta in deltas.items():
        kernel = p[f"{own}{name}.kernel"]
        found[f"{own}{name}.kernel"] = kernel + delta.reshape(kernel.shape)
    return found


def sublayers(
    p: Arrays,
    own: str,
    x: np.ndarray,
    *,
    attend: Callable = lambda n, y: y,
    feed: Callable = lambda n, y: y,
    then: Callable = lambda name, x: x,
) -> np.ndarray:
    """A block; the hooks change what its sublayers give, or what stands after them."""
    n = norm(p, f"{own}attention_norm", x)
    x = then("attention", x + attend(n, attention(p, f"{own}attention", n, n)))
    n = norm(p, f"{own}mlp_norm", x)
    return then("mlp", x + feed(n, mlp(p, f"{own}mlp", n)))


def lora(p: Arrays, own: str, x: np.ndarray, names: Sequence[str], scale: float) -> np.ndarray:
    k = own.split(".")[1]
    factors = {name: f"layers.0.factors.{k}.{i}" for i, name in enumerate(names)}
    deltas = {name: scale * p[f"{f}.a"] @ p[f"{f}.b"] for name, f in factors.items()}
    return block(shifted(p, own, deltas), own, x)


def generated(
    p: Arrays,
    own: str,
    x: np.ndarray,
    y: np.ndarray | None,
    names: Sequence[str],
    *,
    rank: int,
    scale: float,
    depth: int,
) -> np.ndarray:
    """Of the first stack; columns of A are what queries read of the trunk's output."""
    if y is None or len(y) == 0:
        return block(p, own, x)
    projected = y @ p["operator.proj.kernel"] + p["operator.proj.bias"]
    memory = tower(p, "operator.tower", depth, projected)
    read = attention(p, "layers.0.attention", p["layers.0.queries"], memory)
    deltas = {}
    for i, name in enumerate(names):
        a = (read[i * rank : (i + 1) * rank] @ p[f"layers.0.maps.{i}.kernel"]).T
        deltas[name] = scale * a @ p[f"layers.0.b.{i}"]
    return block(shifted(p, own, deltas), own, x)


def memory(p: Arrays, own: str, x: np.ndarray, ys: Sequence[np.ndarray]) -> np.ndarray:
    k = own.split(".")[1]
    y = np.concatenate(ys) if ys else np.zeros((0, 1))
    if len(y) == 0:
        return block(p, own, x)
    project = f"layers.0.projections.{k}"
    y = y @ p[f"{project}.kernel"] + p[f"{project}.bias"]
    source = norm(p, f"{own}attention_norm", y)
    if "layers.0.gates" not in p:
        both = np.concatenate([x, y])
        return block(p, own, x, both)
    gate = np.tanh(p["layers.0.gates"][int(k)])

    def attend(n: np.ndarray, found: np.ndarray) -> np.ndarray:
        return found + gate * attention(p, f"{own}attention", n, source)

    return sublayers(p, own, x, attend=attend)


def parameter_free(
    p: Arrays, own: str, x: np.ndarray, ys: Sequence[np.ndarray], drop: float, scale: float
) -> np.ndarray:
    y = np.concatenate(ys) if ys else np.zeros((0, x.shape[1]))

    def feed(n: np.ndarray, found: np.ndarray) -> np.ndarray:
        found = np.array(found)
        for i, token in enumerate(n):
            scores = [float(silu(token) @ silu(other)) for other in y]
            least = sorted(scores)[int(drop * len(scores))] if scores else 0.0
            for score, other in zip(scores, y, strict=True):
                found[i] += scale * score * other if score >= least else 0.0
        return found

    return sublayers(p, own, x, feed=feed)


def joint(
    p: Arrays, own: str, x: np.ndarray, xs: dict, sees: Callable[[int, int, int, int], bool]
) -> np.ndarray:
    """Each stack projects its own tokens; head by head and query by query. `sees(k, i, j, t)`:
    whether token i of stack k sees token t of stack j."""
    k = int(own.split(".")[1])
    normal = norm(p, f"{own}attention_norm", x)
    sources = {j: norm(p, f"stacks.{j}.0.attention_norm", y) for j, y in xs.items()}
    heads, size = p[f"{own}attention.query.kernel"].shape[1:]
    update = np.zeros_like(x)
    for i, token in enumerate(normal):
        seen = [(j, t) for j, y in xs.items() for t in range(len(y)) if sees(k, i, j, t)]
        if not seen:
            continue
        update[i] = p[f"{own}attention.out.bias"]
        for head in range(heads):

            def part(kind: str, j: int, y: np.ndarray, head: int = head) -> np.ndarray:
                name = f"stacks.{j}.0.attention.{kind}"
                bias = p[f"{name}.bias"][head] if f"{name}.bias" in p else 0.0
                return y @ p[f"{name}.kernel"][:, head] + bias

            query = part("query", k, token)
            scores = np.array([query @ part("key", j, sources[j][t]) for j, t in seen])
            weights = np.exp(scores / np.sqrt(size))
            values = np.array([part("value", j, sources[j][t]) for j, t in seen])
            update[i] += (weights / weights.sum()) @ values @ p[f"{own}attention.out.kernel"][head]
    x = x + update
    return x + mlp(p, f"{own}mlp", norm(p, f"{own}mlp_norm", x))


def crossed(
    p: Arrays, own: str, x: np.ndarray, y: np.ndarray, sees: Callable[[int, int], bool]
) -> np.ndarray:
    """Before the block, token by token: what one has nothing to read stays as it is."""
    name = "layers.0.readings.0"
    seen = [[t for t in range(len(y)) if sees(i, t)] for i in range(len(x))]
    rows = [reading(p, name, x[i : i + 1], y[found]) for i, found in enumerate(seen)]
    return block(p, own, np.concatenate(rows))

"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

Missing = Literal["none", "some", "samples", "all"]


@dataclass(frozen=True)
class Case:
    """A call of `ssd`.

    Args:
      name: what it stands for.
      batch, time, heads, size, groups, states: b, t, h, p, g, n.
      resets: share of the tokens before which states are emptied.
      missing: what is absent: nothing; tokens here and there and at the end; whole samples;
        everything. What is absent holds NaN and infinities.
      begun: whether there is a state before the first token.
    """

    name: str
    batch: int
    time: int
    heads: int
    size: int
    groups: int
    states: int
    resets: float = 0.0
    missing: Missing = "none"
    begun: bool = False


TESTED = (
    Case("one chunk", 2, 13, 2, 4, 1, 3),
    Case("chunks", 2, 50, 3, 5, 1, 4, begun=True),
    Case("groups", 3, 37, 6, 4, 2, 5, resets=0.1),
    Case("resets", 2, 64, 2, 3, 2, 4, resets=0.3, begun=True),
)
"""Small; tried in chunks of 16."""

TIMED = (
    Case("text, 16 states", 8, 2048, 24, 64, 1, 16),
    Case("text, 128 states", 8, 2048, 24, 64, 1, 128),
    Case("documents", 8, 2048, 24, 64, 1, 16, resets=0.01),
)
"""What models ask: width 768 twice over, in heads of 64."""


def arrays(
    case: Case, dtype: jnp.dtype | type = jnp.float32, *, seed: int = 0
) -> tuple[tuple[jnp.ndarray, ...], dict[str, jnp.ndarray | None]]:
    """`(x, decay, into, out)`, and `reset`, `valid` and `state` by name."""
    rng = np.random.default_rng(seed)
    lead = (case.batch, case.time)
    valid = _valid(case, rng)
    decay = -rng.exponential(0.3, (*lead, case.heads))
    decay[rng.random(decay.shape) < 0.02] = -200.0
    wide = [
        rng.standard_normal((*lead, case.heads, case.size)),
        decay,
        *(rng.standard_normal((*lead, case.groups, case.states)) for _ in range(2)),
    ]
    if valid is not None:
        for array in wide:
            array[~valid] = rng.choice([np.nan, np.inf, -np.inf], array[~valid].shape)
    state = rng.standard_normal((case.batch, case.heads, case.size, case.states))
    marks = {
        "reset": jnp.asarray(rng.random(lead) < case.resets) if case.resets else None,
        "valid": None if valid is None else jnp.asarray(valid),
        "state": jnp.asarray(state, jnp.promote_types(dtype, jnp.float32)) if case.begun else None,
    }
    kinds = (dtype, jnp.promote_types(dtype, jnp.float32), dtype, dtype)
    return tuple(jnp.asarray(a, kind) for a, kind in zip(wide, kinds, strict=True)), marks


def _valid(case: Case, rng: np.random.Generator) -> np.ndarray | None:
    lead = (case.batch, case.time)
    if case.missing == "none":
        return None
    if case.missing == "all":
        return np.zeros(lead, bool)
    if case.missing == "samples":
        return np.repeat(np.arange(case.batch)[:, None] % 2 == 0, case.time, axis=1)
    ends = rng.integers(1, case.time + 1, case.batch)
    return (np.arange(case.time) < ends[:, None]) & (rng.random(lead) > 0.2)

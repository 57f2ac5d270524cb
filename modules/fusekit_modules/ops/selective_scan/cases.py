"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

Missing = Literal["none", "some", "all"]


@dataclass(frozen=True)
class Case:
    """A call of the selective scan.

    Args:
      name: what it stands for.
      batch: examples.
      time: tokens.
      channels: how many.
      size: of the state of a channel.
      resets: where what was before is forgotten, in every example.
      missing: which tokens are absent: none; the ends, and a quarter of the others; all. They hold
        NaN and infinities.
    """

    name: str
    batch: int
    time: int
    channels: int
    size: int
    resets: tuple[int, ...] = ()
    missing: Missing = "none"


TESTED = (
    Case("short", 2, 5, 3, 2),
    Case("chunks", 2, 256, 16, 4, (0, 128, 200)),
    Case("ragged", 3, 150, 10, 3, (7, 127, 149)),
)
"""Small; lengths that are whole chunks, less than one, and neither."""

INTERPRETED = (
    Case("short", 1, 40, 128, 8, (7, 8)),
    Case("ragged", 2, 150, 130, 5, (0, 127, 128, 140)),
    Case("two groups", 1, 256, 256, 16, (128,)),
)
"""For kernels: channels and sizes that fill registers, or do not, and states of two registers."""

TIMED = (
    Case("Mamba-130M", 8, 2048, 1536, 16),
    Case("padded streams", 8, 2048, 1536, 16, (196, 596, 1024), "some"),
    Case("ragged", 8, 1100, 1536, 16),
    Case("wide state", 8, 2048, 768, 64),
)
"""Mamba of 130 million parameters; modalities of different lengths with a boundary between them; a
length that is not of whole chunks; a state of 64."""


def masks(case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """`reset` and `valid`, or `None` each."""
    shape = (case.batch, case.time)
    reset = np.broadcast_to(np.isin(np.arange(case.time), case.resets), shape)
    valid = None
    if case.missing == "some":
        ends = rng.integers(1, case.time + 1, case.batch)
        valid = (np.arange(case.time) < ends[:, None]) & (rng.random(shape) > 0.25)
    if case.missing == "all":
        valid = np.zeros(shape, bool)
    return {"reset": reset if case.resets else None, "valid": valid}


def arrays(
    case: Case, dtype: jnp.dtype | type = jnp.float32, *, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `selective_scan` as Mamba begins with them: `a` is -1 to -size, delta the
    softplus of what is around its bias; and masks. What is absent holds NaN and infinities."""
    rng = np.random.default_rng(seed)
    tokens, size = (case.batch, case.time, case.channels), (case.batch, case.time, case.size)
    found = {
        "x": rng.standard_normal(tokens),
        "delta": np.log1p(np.exp(rng.standard_normal(tokens) - 2)),
        "a": -np.broadcast_to(np.arange(1.0, case.size + 1), (case.channels, case.size)),
        "into": rng.standard_normal(size),
        "out": rng.standard_normal(size),
        "state": rng.standard_normal((case.batch, case.channels, case.size)),
    }
    options = masks(case, rng)
    if options["valid"] is not None:
        for name in ("x", "delta", "into", "out"):
            absent = ~options["valid"]
            found[name][absent] = rng.choice([np.nan, np.inf, -np.inf], found[name][absent].shape)
    wide = {"a": jnp.float32, "state": jnp.float32}
    given = {name: jnp.asarray(v, wide.get(name, dtype)) for name, v in found.items()}
    return given, {k: None if v is None else jnp.asarray(v) for k, v in options.items()}

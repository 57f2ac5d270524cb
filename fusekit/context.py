"""What a module is told besides its streams: mode, randomness, where it stands, what to collect."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fusekit.chosen import Choices, Chosen

Mode = Literal["train", "evaluate", "predict"]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


def name_hash(name: str) -> int:
    """A stable 32-bit hash of a name, for folding into random keys."""
    return zlib.crc32(name.encode())


class Collector:
    """Gathers side outputs that were asked for; costs nothing otherwise.

    Args:
      wants: names to keep, such as `attention`; `None` keeps nothing.
      choices: takes the backends that operations choose; `None`: nobody asks.
    """

    def __init__(self, wants: tuple[str, ...] = (), choices: Choices | None = None):
        self.wants = frozenset(wants)
        self.choices = choices
        self.found: dict[tuple[str, str], list[Any]] = {}

    def add(self, path: str, name: str, value: Any) -> None:
        if name in self.wants:
            self.found.setdefault((path, name), []).append(value)


@dataclass(frozen=True)
class Context:
    """The call context of one component.

    Args:
      mode: `train`, `evaluate` (targets given, no randomness) or `predict`.
      key: the step's random key; `None` where nothing random may happen.
      path: the canonical path of the component, such as `image` or `joint`.
      layer: the layer or place index; may be traced, inside a scan.
      dtype: compute dtype.
      collector: for side outputs.
      layout: the layout that the program is compiled for, if it has several devices.
      device: one of the devices that the program is compiled for; `None`: any, so that nothing is
        used which only some have.
      kernel: what runs operations that have kernels: `auto`, `reference`, `xla` or `pallas`.
      named: whether that was said of this component by name. Then it is an error that it cannot;
        else what cannot is run otherwise.
      deferred: keys of values that heads need not make (`fusekit.deferred`).
    """

    mode: Mode = "evaluate"
    key: Array | None = None
    path: str = ""
    layer: int | Array = 0
    dtype: Any = jnp.float32
    collector: Collector = field(default_factory=Collector)
    layout: Any = None
    device: Any = None
    kernel: str = "auto"
    named: bool = True
    deferred: frozenset[Any] = frozenset()

    @property
    def training(self) -> bool:
        return self.mode == "train"

    def at(self, path: str, layer: int | Array = 0) -> "Context":
        return replace(self, path=path, layer=layer)

    def rng(self, purpose: str) -> Array:
        """A key that depends on (step key, component path, layer, purpose) and nothing else."""
        if self.key is None:
            raise ValueError(f"{self.path or 'this component'} needs a random key ({purpose})")
        key = jax.random.fold_in(self.key, name_hash(self.path))
        key = jax.random.fold_in(key, self.layer)
        return jax.random.fold_in(key, name_hash(purpose))

    def collect(self, name: str, value: Any) -> None:
        """Offers a side output; kept only if somebody asked for `name`."""
        self.collector.add(self.path, name, value)

    def note(self, chosen: Chosen) -> None:
        """Tells which backend was chosen; free if nobody asks."""
        if self.collector.choices is not None:
            self.collector.choices.setdefault(chosen)

    @contextmanager
    def collecting(self) -> Iterator[tuple["Context", Collector]]:
        """A context with a fresh collector of the same wants: for the body of a scan. Choices are
        no arrays and go where they went before."""
        fresh = Collector(tuple(self.collector.wants), self.collector.choices)
        yield replace(self, collector=fresh), fresh

"""Which backend runs an operation of a component: noted while a program is traced."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Chosen:
    """One choice.

    Args:
      path: canonical path of the component, such as `image.layers` or `losses.align`.
      operation: such as `attention`.
      backend: what runs it, as operations call it; of two passes that differ, both.
      kernel: what `mesh` asks for: `auto`, `reference`, `xla` or `pallas`.
      why: preferred backends, each with the reason why it is not taken; or that it was asked for.
      unmet: why it is not what was asked for; empty where it is, and for `auto`.
      kernels: whether a kernel runs it, in one of its passes at least.
      shapes: of what goes in, one device's or all devices' together.
    """

    path: str
    operation: str
    backend: str
    kernel: str = "auto"
    why: str = ""
    unmet: str = ""
    kernels: bool = False
    shapes: str = ""

    @property
    def component(self) -> str:
        """The node or loss."""
        return self.path.removesuffix(".layers").removesuffix(".end")

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {"component": self.component, **asdict(self)}


Choices = dict[Chosen, None]
"""In the order in which they were made, each once: layers, scanned or not, choose alike."""


def rows(choices: Iterable[Chosen]) -> Iterator[tuple[str, str, str, str]]:
    """A table, its head first: component, operation, backend and why."""
    found = [(c.component, c.operation, c.backend, c.why) for c in choices]
    if found:
        yield ("component", "operation", "backend", "why")
        yield from dict.fromkeys(found)

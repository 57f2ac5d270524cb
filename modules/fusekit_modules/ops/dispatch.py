"""Which backend runs an operation, decided while tracing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fusekit.errors import FusekitError, nearest

BACKENDS = ("reference", "xla", "tpu", "gpu", "tokamax")

Reason = str | None
"""Why a backend cannot; `None`: it can."""


class BackendError(FusekitError):
    """A backend was asked for by name and cannot, or no backend can."""


@dataclass(frozen=True)
class Choice:
    """The backend that runs an operation, and why.

    Args:
      op: the operation.
      backend: one of `BACKENDS`.
      asked: whether it was asked for by name.
      refused: preferred backends that cannot, each with its reason.
    """

    op: str
    backend: str
    asked: bool
    refused: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.asked:
            return f"{self.op}: {self.backend}, as asked"
        because = "".join(f"; not {name}: {reason}" for name, reason in self.refused)
        return f"{self.op}: {self.backend}{because}"


def choose(op: str, asked: str, backends: Mapping[str, Callable[[], Reason]]) -> Choice:
    """The backend called `asked`; of `auto`, the first that can.

    Args:
      op: the operation, for messages.
      asked: `auto` or one of `BACKENDS`.
      backends: what the operation has, best first; each says why it cannot, or `None`.

    Raises `BackendError` if the one asked for does not exist or cannot, or if none can.
    """
    if asked != "auto":
        if asked not in backends:
            close = nearest(asked, ("auto", *backends))
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            known = ", ".join(("auto", *backends))
            raise BackendError(f"{op} has no backend {asked}: it has {known}{hint}")
        reason = backends[asked]()
        if reason is not None:
            raise BackendError(f"{op} cannot use the backend {asked}: {reason}")
        return Choice(op, asked, asked=True)
    refused: list[tuple[str, str]] = []
    for name, unsupported in backends.items():
        reason = unsupported()
        if reason is None:
            return Choice(op, name, asked=False, refused=tuple(refused))
        refused.append((name, reason))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused)
    raise BackendError(f"no backend of {op} can: {reasons}")

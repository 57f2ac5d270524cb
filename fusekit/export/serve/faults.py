"""What a request is refused with."""

from collections.abc import Iterable
from typing import Any

from fusekit.errors import FusekitError, Problem

SHOWN = 20
"""An answer tells so many problems and counts the others."""
LONG = 200
"""Longer words of a request are cut off where they are told."""


class RequestError(FusekitError):
    """A request that is refused.

    Args:
      status: of HTTP.
      code: one word for programs, from a closed set.
      message: for readers.
      problems: what is wrong with the rows.
    """

    def __init__(self, status: int, code: str, message: str, problems: Iterable[Problem] = ()):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.problems = tuple(problems)

    def body(self) -> dict[str, Any]:
        """As plain data."""
        found: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.problems:
            found["problems"] = [_plain(problem) for problem in self.problems[:SHOWN]]
            found["count"] = len(self.problems)
        return {"error": found}


def _plain(problem: Problem) -> dict[str, Any]:
    told: dict[str, Any] = {"path": ".".join(cut(step) for step in problem.path)}
    told["message"] = problem.message
    for key in ("found", "expected"):
        if getattr(problem, key):
            told[key] = getattr(problem, key)
    return {**told, "nearest": list(problem.nearest)} if problem.nearest else told


def cut(word: object) -> str:
    """A word of a request, of bearable length."""
    text = str(word)
    return text if len(text) <= LONG else text[:LONG] + "…"

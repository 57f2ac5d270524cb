"""What is seen of training: a bar where there is a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping, Sized
from types import TracebackType
from typing import Any, TextIO

import jax

EVERY = 10.0
"""Seconds between plain lines."""


class Progress:
    """Shows steps and values on standard error.

    Args:
      total: steps in all.
      start: steps done before.
      show: whether to show anything; only the first host does.
      stream: default standard error.
      what: is done.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        show: bool = True,
        stream: TextIO | None = None,
        what: str = "training",
    ):
        self.total, self.start, self.what = total, start, what
        self.show = show and jax.process_index() == 0
        self.stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._began = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        self._began = self._last = time.monotonic()
        if self.show and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self.what),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=Console(file=self.stream),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=self.start, values="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A step is done."""
        if not self.show:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=step, values=_said({"loss": values["loss"]}))
        elif step == self.total or time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            speed = (step - self.start) / max(self._last - self._began, 1e-9)
            self.say(f"step {step}/{self.total}  {_said(values)}  {speed:.3g} steps/s")

    def counted(self, count: int) -> None:
        """So many batches are done, of a pass over a split."""
        if self._bar is not None:
            self._bar.update(self._task, completed=count)
        elif self.show and time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            self.say(f"{self.what}: batch {count}/{self.total}")

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A split was evaluated."""
        if self.show:
            self.say(f"step {step}/{self.total}  {split}: {_said(values)}")

    def say(self, text: str) -> None:
        """A line."""
        if not self.show:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)


def counted(batches: Sized, what: str, *, show: bool) -> Iterator[Any]:
    """The batches of one pass, and on standard error how far it is; the first one compiles."""
    passed: Any = batches
    with Progress(len(batches), show=show, what=what) as shown:
        shown.say(f"compiling, then {what} {len(batches)} batches")
        for count, batch in enumerate(passed, 1):
            yield batch
            shown.counted(count)


def _said(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())

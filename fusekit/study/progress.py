"""How a study gets on: one bar over all steps on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

EVERY = 10.0
"""Seconds between plain lines."""


class Told:
    """Counts steps and says what is done.

    Args:
      total: steps in all.
      show: whether to show anything.
      stream: default standard error.
    """

    def __init__(self, total: int, *, show: bool = True, stream: TextIO | None = None):
        self.total, self.done, self.show = total, 0, show
        self.stream = stream or sys.stderr
        self.doing = ""
        self._bar: Any = None
        self._task: Any = None
        self._began = self._last = time.monotonic()

    @contextmanager
    def running(self) -> Iterator["Told"]:
        if self.show and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f}%"),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )
            self._task = self._bar.add_task("", total=self.total)
            self._bar.start()
        try:
            yield self
        finally:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def start(self, doing: str) -> None:
        """Something else is being done."""
        self.doing = doing
        if self._bar is not None:
            self._bar.update(self._task, description=doing)

    def ticks(self, count: int) -> Callable[[], None]:
        """To be called at each step of so many models."""
        return lambda: self.step(count)

    def step(self, count: int = 1) -> None:
        self.done += count
        if not self.show:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._last >= EVERY:
            self.say(self.doing)

    def say(self, text: str) -> None:
        """A line."""
        if not self.show:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
            return
        self._last = time.monotonic()
        share = self.done / max(self.total, 1)
        print(
            f"[{share:4.0%} {self._last - self._began:5.0f} s] {text}", file=self.stream, flush=True
        )

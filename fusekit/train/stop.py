"""Leaving early, and cleanly: SIGTERM, and the first Ctrl-C."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax


class Stop:
    """Notes a request to stop while it is entered; a second Ctrl-C interrupts at once.

    Signals reach only the main thread of a process; elsewhere nothing is noted. Handlers are put
    back on leaving. Over several hosts JAX itself listens for SIGTERM, and all hosts agree on the
    step after which they stop; a Ctrl-C is passed on as one.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            for number in (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def after(self, step: int) -> str | None:
        """Why to stop after this step, if there is a reason."""
        if jax.process_count() == 1:
            return self.reason
        from jax.experimental import multihost_utils

        return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

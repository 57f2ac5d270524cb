"""The watch: a host that is lost, or fails, ends the others at once and with its name.

JAX watches too, but says so by aborting from C++. A collective that waits for a lost host waits
for good on some platforms, so nobody but another thread can end the process.
"""

import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

from fusekit.hosts.line import Line
from fusekit.hosts.place import Place
from fusekit.status import AGAIN, MEND

PING = 3.0
"""Seconds between signs of life."""


def end(text: str, status: int) -> None:
    """Says why and ends the process, whatever its other threads wait for."""
    os.write(2, f"\n{text}\n".encode())
    os._exit(status)


class Watch:
    """Listens to the other hosts, from a thread: the first to all, all others to the first.

    Args:
      place: of this process.
      lines: by process.
      names: of machines, by process.
      ended: what is done once a host is lost, with a text and an exit status.
    """

    def __init__(
        self,
        place: Place,
        lines: dict[int, Line],
        names: dict[int, str],
        ended: Callable[[str, int], None] = end,
    ):
        self.place, self.names, self._ended = place, names, ended
        self._lines = dict(lines)
        self._done: set[int] = set()
        self._leaving = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)
        self._thread.start()

    def named(self, process: int) -> str:
        """What a host is called in messages."""
        return f"host {process} of {self.place.processes} ({self.names.get(process, '?')})"

    def done(self) -> None:
        """Says that this host has done all there was to do."""
        self._leaving = True
        self._tell(done=True)

    def failed(self, why: str, status: int) -> None:
        """Says that this host has failed, and its exit status; returns when the others know."""
        self._leaving = True
        if self.place.process == 0:
            self._tell(lost=f"{self.named(0)} failed: {why}", status=status)
            self._thread.join(timeout=5.0)
        else:
            self._tell(failed=why, status=status)

    def _tell(self, **message: Any) -> None:
        with self._lock:
            for line in self._lines.values():
                line.send(**message)

    def _run(self) -> None:
        pinged = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for process, line in self._lines.items():
                selector.register(line, selectors.EVENT_READ, process)
            while self._lines:
                for key, _ in selector.select(min(PING, 1.0)):
                    line: Any = key.fileobj
                    if not self._heard(key.data, line.receive()):
                        selector.unregister(line)
                        with self._lock:
                            del self._lines[key.data]
                now = time.monotonic()
                for process, line in self._lines.items():
                    if now - line.heard > self.place.silence and process not in self._done:
                        silent = f"no sign of life for {now - line.heard:.0f} s"
                        self._lost(f"{self.named(process)} was lost: {silent}")
                if now - pinged > PING:
                    pinged = now
                    self._tell(ping=True)

    def _heard(self, process: int, messages: list[dict[str, Any]] | None) -> bool:
        """Takes in what came from a host; whether its line goes on."""
        if messages is None:
            if process not in self._done:
                self._lost(f"{self.named(process)} was lost: its process ended")
            return False
        for message in messages:
            if "done" in message:
                self._done.add(process)
            if "failed" in message:
                self._done.add(process)
                told = f"{self.named(process)} failed: {message['failed']}"
                self._lost(told, message.get("status"))
            if "lost" in message:
                self._lost(str(message["lost"]), message.get("status"))
        return True

    def _lost(self, text: str, status: object = AGAIN) -> None:
        """Passes it on and ends this host, unless it is leaving by itself."""
        if self.place.process == 0:
            self._tell(lost=text, status=status)
        if self._leaving:
            return
        text += f"\n    this host, {self.place.process}, stops as well"
        if status == MEND:
            self._ended(text, MEND)
        else:
            more = "--resume goes on from the run's last checkpoint, with any number of hosts"
            self._ended(f"{text}; {more}", AGAIN)

"""Hosts of a test: processes that find each other on this machine, and are gone afterwards."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DEVICES = "--xla_force_host_platform_device_count"


class Ended(NamedTuple):
    """What came of one host."""

    status: int
    out: str
    err: str


class Group:
    """Processes on CPU devices; killed on leaving, whatever they do.

    Args:
      folder: where they run, and what they say goes.
      arguments: of Python, the same for every host.
      hosts: how many.
      devices: of each.
    """

    def __init__(
        self, folder: Path, *arguments: object, hosts: int, devices: int = 1, **environ: str
    ):
        self.folder, self.began = folder, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        flags = re.sub(rf"{DEVICES}=\d+", f"{DEVICES}={devices}", os.environ.get("XLA_FLAGS", ""))
        self.environ = {
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "FUSEKIT_COORDINATOR": f"127.0.0.1:{free_ports()}",
            "FUSEKIT_PROCESSES": str(hosts),
            "FUSEKIT_HOSTS_WAIT": "60",
            **environ,
        }
        self.processes = [self._start(k, arguments) for k in range(hosts)]

    def _start(self, host: int, arguments: tuple[object, ...]) -> subprocess.Popen[bytes]:
        out, err = (self.folder / f"{host}.{which}" for which in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=self.folder,
                stdout=stdout,
                stderr=stderr,
                env={**self.environ, "FUSEKIT_PROCESS": str(host)},
            )

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()

    def wait(self, seconds: float = 120) -> list[Ended]:
        """What came of every host; they must all have ended by then."""
        until = time.monotonic() + seconds
        for host, process in enumerate(self.processes):
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"host {host} goes on:\n{self.told(host)[1]}") from None
        return [Ended(p.returncode, *self.told(k)) for k, p in enumerate(self.processes)]

    def told(self, host: int) -> tuple[str, str]:
        """What a host has written so far."""
        out, err = ((self.folder / f"{host}.{which}").read_text() for which in ("out", "err"))
        return out, err

    def until(self, there: Path, seconds: float = 120) -> None:
        """Returns when there is such a file or folder."""
        until = time.monotonic() + seconds
        while not there.exists():
            for host, process in enumerate(self.processes):
                assert process.poll() is None, self.told(host)[1]
            assert time.monotonic() < until, f"no {there}"
            time.sleep(0.05)


def free_ports() -> int:
    """A port that is free, as is the one after it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port


def succeeded(ended: list[Ended]) -> None:
    for host, each in enumerate(ended):
        assert each.status == 0, f"host {host}: {each.status}\n{each.err}"

"""The process that serves an export until it is told to stop."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from fusekit.errors import ExportError
from fusekit.export.exported import load
from fusekit.export.serve.app import Service, application
from fusekit.export.serve.batcher import buckets

BACKLOG = CONNECTIONS = 1024
GRACE = 30
"""Seconds that requests under way may take after a signal to stop."""


class _Server(uvicorn.Server):
    """Stops being ready as soon as it is told to stop."""

    stopping: Callable[[], None] = staticmethod(lambda: None)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.stopping()
        super().handle_exit(sig, frame)


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_batch: int = 32,
    wait_ms: float = 2.0,
    max_body: int = 16 << 20,
    say: Callable[[str], None] = print,
) -> None:
    """Serves an export until SIGTERM or SIGINT; requests under way are answered first.

    Args:
      folder: of the export.
      host, port: where to listen; port 0 takes a free one.
      max_batch: most rows of a batch, and of a request.
      wait_ms: how long a request waits for others at most.
      max_body: most bytes of a request.
      say: where to tell that it is up.

    Raises:
      ExportError: the export cannot be read or served so, or compiled.
    """
    exported = load(folder)
    coupled = exported.manifest.coupled
    if coupled and max_batch > 1:
        message = f"an answer depends on the other rows of its batch ({', '.join(coupled)})"
        raise ExportError(f"{message}\n    expected: --max-batch 1, which answers each row alone")
    listener = _listener(host, port)
    faults: list[Exception] = []

    def failed(error: Exception) -> None:
        faults.append(error)
        server.should_exit = True

    sizes = buckets(max_batch)
    service = Service(exported, sizes=sizes, wait=wait_ms / 1e3, body=max_body, failed=failed)
    config = uvicorn.Config(
        application(service),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=1 << 14,
    )
    server = _Server(config)
    server.stopping = service.stop
    # uvicorn sends itself the signal again after it has stopped
    before = signal.signal(signal.SIGTERM, lambda *given: None)
    at = listener.getsockname()
    say(f"serving {exported.manifest.name} on http://{host}:{at[1]} ({exported.platform},"
        f" batches of {', '.join(map(str, sizes))})")  # fmt: skip
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()
    if faults:
        told = f"{type(faults[0]).__name__}: {faults[0]}"
        raise ExportError(f"{folder} cannot be compiled: {told}") from faults[0]


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(BACKLOG)  # from here on connections wait for the server
    except OSError as error:
        made.close()
        raise ExportError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return made

"""A connection between two hosts: one JSON object a line."""

import json
import socket
import time
from typing import Any

LONGEST = 1 << 16
"""What does not end by then is no host of ours."""


class Line:
    """A connection over which messages go.

    Args:
      connection: a connected socket.
    """

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.heard = time.monotonic()
        self._rest = b""
        connection.settimeout(5.0)

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, **message: Any) -> bool:
        """Sends a message; whether that was possible."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None once the other side has gone, or is no host of ours.

        Waits, up to the connection's timeout, where nothing has come.
        """
        try:
            data = self.connection.recv(LONGEST)
        except TimeoutError:
            return []
        except OSError:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > LONGEST:
            return None
        self.heard = time.monotonic()
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(each, dict) for each in messages) else None

    def close(self) -> None:
        self.connection.close()

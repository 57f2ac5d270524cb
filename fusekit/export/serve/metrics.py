"""Counts and distributions, in the text format that Prometheus reads."""

from bisect import bisect_left
from collections.abc import Sequence
from threading import Lock

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counter:
    """How often something happened, by the value of one label from a closed set."""

    def __init__(self, name: str, help: str, label: str = ""):
        self.name, self.help, self.label = name, help, label
        self._counts: dict[str, float] = {} if label else {"": 0.0}
        self._lock = Lock()

    def add(self, value: str = "", by: float = 1.0) -> None:
        with self._lock:
            self._counts[value] = self._counts.get(value, 0.0) + by

    def value(self, value: str = "") -> float:
        return self._counts.get(value, 0.0)

    def lines(self) -> list[str]:
        told = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} counter"]
        with self._lock:
            counts = sorted(self._counts.items())
        for value, count in counts:
            label = f'{{{self.label}="{value}"}}' if self.label else ""
            told.append(f"{self.name}{label} {_number(count)}")
        return told


class Gauge:
    """A number that goes up and down."""

    def __init__(self, name: str, help: str):
        self.name, self.help, self.value = name, help, 0.0

    def lines(self) -> list[str]:
        head = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} gauge"]
        return [*head, f"{self.name} {_number(self.value)}"]


class Histogram:
    """How values are distributed: counts up to each bound, their sum and their number."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]):
        self.name, self.help, self.bounds = name, help, tuple(bounds)
        self._counts, self._sum = [0] * (len(self.bounds) + 1), 0.0
        self._lock = Lock()

    def add(self, value: float) -> None:
        with self._lock:
            self._counts[bisect_left(self.bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        told = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} histogram"]
        with self._lock:
            counts, total = list(self._counts), self._sum
        upto = 0
        for bound, count in zip((*self.bounds, "+Inf"), counts, strict=True):
            upto += count
            shown = bound if isinstance(bound, str) else _number(bound)
            told.append(f'{self.name}_bucket{{le="{shown}"}} {upto}')
        return [*told, f"{self.name}_sum {_number(total)}", f"{self.name}_count {upto}"]


def _number(value: float) -> str:
    """All of its digits; a whole number without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


class Metrics:
    """All that a server counts.

    Args:
      buckets: sizes of batches that are compiled.
    """

    def __init__(self, buckets: Sequence[int]):
        self.requests = Counter("fusekit_requests_total", "Requests answered.", "status")
        self.errors = Counter("fusekit_errors_total", "Requests refused or failed.", "code")
        self.rows = Counter("fusekit_rows_total", "Rows predicted.")
        self.filling = Counter("fusekit_filling_rows_total", "Rows that only filled a batch up.")
        self.seconds = Histogram(
            "fusekit_request_seconds", "From a request's body to its answer.", SECONDS
        )
        self.model = Histogram("fusekit_model_seconds", "The model on one batch.", SECONDS)
        self.batches = Histogram(
            "fusekit_batch_rows", "Rows of a batch, filling left out.", buckets
        )
        self.waiting = Gauge("fusekit_waiting_rows", "Rows that wait for the model.")
        self.ready = Gauge("fusekit_ready", "Whether predictions are made.")

    def text(self) -> str:
        """All of them."""
        every = [
            self.requests,
            self.errors,
            self.rows,
            self.filling,
            self.seconds,
            self.model,
            self.batches,
            self.waiting,
            self.ready,
        ]
        return "\n".join(line for each in every for line in each.lines()) + "\n"

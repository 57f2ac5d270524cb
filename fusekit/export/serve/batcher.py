"""Gathers requests into batches and runs the model on them, one batch at a time.

Batches are filled up to the next bucket, each of which is compiled beforehand, so that no request
waits for a compiler.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusekit.export.exported import Exported
from fusekit.export.serve.faults import RequestError
from fusekit.export.serve.metrics import Metrics
from fusekit.export.serve.rows import Arrays, Rows

WAITING = 16
"""At most so many full batches wait; further requests are refused."""


def buckets(most: int) -> tuple[int, ...]:
    """Powers of two up to the most rows of a batch, and that number itself."""
    powers = [1 << k for k in range(most.bit_length()) if 1 << k <= most]
    return tuple(dict.fromkeys([*powers, most]))


@dataclass(frozen=True, eq=False)
class _Asked:
    inputs: Arrays
    rows: int
    at: float
    answer: "asyncio.Future[Arrays]"


class Batcher:
    """Runs one export.

    Args:
      exported: the model.
      rows: makes rows that fill up.
      sizes: the buckets, ascending.
      wait: seconds that the first of some requests waits for others at most.
      metrics: what is counted.
    """

    def __init__(
        self, exported: Exported, rows: Rows, sizes: Sequence[int], wait: float, metrics: Metrics
    ):
        self.exported, self.sizes, self.wait, self.metrics = exported, tuple(sizes), wait, metrics
        self._blank = rows.blank
        self._waiting: deque[_Asked] = deque()
        self._count = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")
        self._compiled: dict[int, Any] = {}

    async def compile(self) -> None:
        """Compiles every bucket and runs it once."""
        loop = asyncio.get_running_loop()
        for size in self.sizes:
            self._compiled[size] = await loop.run_in_executor(
                self._thread, self.exported.compiled, size
            )
            await loop.run_in_executor(self._thread, self._call, self._blank(size), size)

    async def predict(self, inputs: Arrays, rows: int) -> Arrays:
        """The answers to some rows. Raises `RequestError` if too many wait, or the model fails."""
        if self._count + rows > WAITING * self.sizes[-1]:
            raise RequestError(503, "busy", f"{self._count} rows are waiting; try again later")
        loop = asyncio.get_running_loop()
        asked = _Asked(inputs, rows, loop.time(), loop.create_future())
        self._waiting.append(asked)
        self._count += rows
        self.metrics.waiting.value = self._count
        self._arrived.set()
        return await asked.answer

    async def go(self) -> None:
        """Runs batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._gathered()
            batch = self._taken()
            try:
                found = await loop.run_in_executor(self._thread, self._run, batch)
            except Exception as error:
                failed = RequestError(500, "model", f"the model failed: {type(error).__name__}")
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(failed)
                continue
            for asked, answer in zip(batch, found, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(answer)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _gathered(self) -> None:
        """Returns when there is a full batch, or the oldest request has waited long enough."""
        while True:
            left = 0.0
            if self._waiting:
                left = self._waiting[0].at + self.wait - asyncio.get_running_loop().time()
                if self._count >= self.sizes[-1] or left <= 0:
                    return
            self._arrived.clear()
            try:
                async with asyncio.timeout(left if self._waiting else None):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _taken(self) -> list[_Asked]:
        """The oldest requests that fit into one batch together."""
        batch: list[_Asked] = []
        total = 0
        while self._waiting and total + self._waiting[0].rows <= self.sizes[-1]:
            batch.append(self._waiting.popleft())
            total += batch[-1].rows
        self._count -= total
        self.metrics.waiting.value = self._count
        return batch

    def _run(self, batch: Sequence[_Asked]) -> list[Arrays]:
        """The answers to each request of a batch; in the thread of the model."""
        total = sum(asked.rows for asked in batch)
        size = next(size for size in self.sizes if size >= total)
        parts = [asked.inputs for asked in batch]
        if size > total:
            parts.append(self._blank(size - total))
        inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        began = time.perf_counter()
        found = self._call(inputs, size)
        self.metrics.model.add(time.perf_counter() - began)
        self.metrics.batches.add(total)
        self.metrics.rows.add(by=total)
        self.metrics.filling.add(by=size - total)
        answers, at = [], 0
        for asked in batch:
            answers.append({name: each[at : at + asked.rows] for name, each in found.items()})
            at += asked.rows
        return answers

    def _call(self, inputs: Arrays, size: int) -> Arrays:
        found = self._compiled[size](self.exported.parameters, inputs)
        return {name: np.asarray(value) for name, value in found.items()}

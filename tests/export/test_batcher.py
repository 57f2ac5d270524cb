"""Gathering into batches, with a model that only notes what it was asked."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from fusekit.export.serve.batcher import WAITING, Batcher, buckets
from fusekit.export.serve.faults import RequestError
from fusekit.export.serve.metrics import Metrics

Arrays = dict[str, np.ndarray]


class Doubling:
    """Stands for an export: doubles numbers, and notes the sizes of its batches.

    `go` lets a batch through; without it, all are.
    """

    parameters: dict[str, Any] = {}

    def __init__(self):
        self.compiled_sizes: list[int] = []
        self.batches: list[list[float]] = []
        self.go: threading.Semaphore | None = None
        self.fails = False
        self.started = 0

    def compiled(self, size: int) -> Callable[[Any, Arrays], Arrays]:
        self.compiled_sizes.append(size)

        def call(parameters: Any, inputs: Arrays) -> Arrays:
            assert len(inputs["x"]) == size
            self.started += 1
            if self.go is not None:
                assert self.go.acquire(timeout=10)
            if self.fails:
                raise MemoryError
            self.batches.append(inputs["x"].tolist())
            return {"y": inputs["x"] * 2}

        return call


class Blank:
    def blank(self, rows: int) -> Arrays:
        return {"x": np.zeros(rows)}


def run(act: Callable[[Batcher, Doubling], Coroutine[Any, Any, None]], **options: Any) -> Metrics:
    """A batcher of at most 4 rows, compiled and running, then what the test does with it."""
    model, metrics = Doubling(), Metrics((1, 2, 4))

    async def go() -> None:
        wait = options.get("wait", 0.05)
        batcher = Batcher(model, Blank(), buckets(4), wait, metrics)  # pyright: ignore
        await batcher.compile()
        assert model.compiled_sizes == [1, 2, 4]
        model.batches.clear()
        model.started = 0
        task = asyncio.create_task(batcher.go())
        try:
            async with asyncio.timeout(20):
                await act(batcher, model)
        finally:
            task.cancel()
            batcher.close()

    asyncio.run(go())
    return metrics


def asked(batcher: Batcher, *numbers: float) -> "asyncio.Task[Arrays]":
    return asyncio.create_task(batcher.predict({"x": np.array(numbers)}, len(numbers)))


def test_buckets():
    assert buckets(1) == (1,)
    assert buckets(8) == (1, 2, 4, 8)
    assert buckets(6) == (1, 2, 4, 6)


def test_requests_share_a_batch_and_each_gets_its_own():
    async def act(batcher: Batcher, model: Doubling) -> None:
        found = await asyncio.gather(asked(batcher, 1.0), asked(batcher, 2.0, 3.0))
        assert [one["y"].tolist() for one in found] == [[2], [4, 6]]
        assert model.batches == [[1, 2, 3, 0]]

    metrics = run(act)
    assert metrics.rows.value() == 3
    assert metrics.filling.value() == 1
    assert "fusekit_batch_rows_sum 3" in metrics.text()


def test_a_full_batch_does_not_wait():
    async def act(batcher: Batcher, model: Doubling) -> None:
        found = await asyncio.gather(asked(batcher, 1.0, 2.0), asked(batcher, 3.0, 4.0))
        assert [one["y"].tolist() for one in found] == [[2, 4], [6, 8]]
        assert model.batches == [[1, 2, 3, 4]]

    run(act, wait=15.0)


def test_what_does_not_fit_goes_into_the_next_batch_in_order():
    async def act(batcher: Batcher, model: Doubling) -> None:
        await asyncio.gather(asked(batcher, 1.0, 2.0, 3.0), asked(batcher, 4.0, 5.0))
        assert model.batches == [[1, 2, 3, 0], [4, 5]]

    run(act)


def test_one_alone_waits_no_longer_than_it_must():
    async def act(batcher: Batcher, model: Doubling) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asked(batcher, 1.0)
        assert 0.1 <= loop.time() - began < 5
        assert model.batches == [[1]]

    run(act, wait=0.1)


def test_too_many_are_refused_and_the_others_answered():
    async def act(batcher: Batcher, model: Doubling) -> None:
        model.go = threading.Semaphore(0)
        first = asked(batcher, 0.0, 0.0, 0.0, 0.0)
        while not model.started:
            await asyncio.sleep(0.001)
        others = [asked(batcher, k, k, k, k) for k in range(WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as caught:
            await asked(batcher, 1.0)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        for _ in range(WAITING + 1):
            model.go.release()
        found = await asyncio.gather(first, *others)
        assert [one["y"][0] for one in found[1:]] == [2 * k for k in range(WAITING)]

    run(act, wait=0.0)


def test_a_failure_is_told_to_all_of_the_batch_and_to_nobody_else():
    async def act(batcher: Batcher, model: Doubling) -> None:
        model.fails = True
        found = await asyncio.gather(
            asked(batcher, 1.0), asked(batcher, 2.0), return_exceptions=True
        )
        for error in found:
            assert isinstance(error, RequestError)
            assert (error.status, error.code) == (500, "model")
            assert "MemoryError" in error.message
        model.fails = False
        assert (await asked(batcher, 5.0))["y"].tolist() == [10]

    run(act)


def test_who_has_gone_away_does_not_disturb_the_others():
    async def act(batcher: Batcher, model: Doubling) -> None:
        gone, stays = asked(batcher, 1.0), asked(batcher, 2.0)
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays)["y"].tolist() == [4]
        assert (await asked(batcher, 3.0))["y"].tolist() == [6]

    run(act)

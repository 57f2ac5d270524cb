"""A pipeline as training sees it, with what the study adds: a count of steps, other targets."""

from collections.abc import Callable, Iterator
from typing import Any

from fusekit.data.batch import Batch
from fusekit.data.pipeline import Pipeline
from fusekit.study.targets import Targets


class Feed:
    """Wraps a pipeline.

    Args:
      pipeline: closed by `close`.
      targets: what to put in place of the batches' own.
      tick: called at each batch.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        targets: Targets | None = None,
        tick: Callable[[], Any] = lambda: None,
    ):
        self.pipeline, self.targets, self.tick = pipeline, targets, tick

    def __len__(self) -> int:
        return len(self.pipeline)

    def __iter__(self) -> Iterator[Batch]:
        return (self._done(batch) for batch in self.pipeline)

    def __next__(self) -> Batch:
        return self._done(next(self.pipeline))

    def _done(self, batch: Batch) -> Batch:
        self.tick()
        return batch if self.targets is None else self.targets.into(batch)

    def state(self) -> Any:
        return self.pipeline.state()

    def close(self) -> None:
        self.pipeline.close()

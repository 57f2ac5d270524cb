"""The pipeline: declared sources to batches, deterministic, sharded by host and resumable."""

from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from fusekit.component import ModalitySpec, SourceSpec
from fusekit.data.batch import VALID, Batch, merged
from fusekit.data.order import InTurn, Mixed, Order, Picks, Shuffled
from fusekit.data.reader import Reader
from fusekit.data.split import NoSplitError
from fusekit.errors import DataError
from fusekit.stream import Stream

State = dict[str, int]


class Pipeline:
    """Batches of one split of one or several sources.

    In training it is an endless iterator: epochs follow each other, each in another order, and
    rows that do not fill a batch are left out of their epoch. Sources are pooled by size, or
    mixed by `weight`. In evaluation `iter` starts over: every row comes once, in order, and the
    last batch is filled up with rows that are not `valid`.

    Batch k, and everything random in its rows, is a function of (seed, k): so a host's share
    (`share`, or `rows[host::hosts]` of the batch) and a resumed run see what one uninterrupted
    host would.

    Args:
      sources: declared sources by name.
      modalities: declared modalities by name; views are left out.
      batch: rows of a batch, over all hosts.
      seed: of order, missingness and transforms.
      split: train, validation or test.
      training: whether to shuffle, repeat, and apply what is meant for training.
      host: which host this is.
      hosts: how many there are; `batch` is a multiple.
      share: the rows of a batch that this host reads, in place of `host` and `hosts`.
      threads: threads that prepare batches ahead; 0 prepares each when it is asked for.
      ahead: how many batches are kept ready.

    Raises:
      DataError: sources and modalities do not fit, or there is no full batch to train on.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceSpec],
        modalities: Mapping[str, ModalitySpec],
        *,
        batch: int,
        seed: int,
        split: str,
        training: bool,
        host: int = 0,
        hosts: int = 1,
        share: NDArray[np.int64] | None = None,
        threads: int = 1,
        ahead: int = 4,
    ):
        if batch < 1 or batch % hosts or not 0 <= host < hosts:
            raise DataError(f"a batch of {batch} cannot be shared by {hosts} hosts (host {host})")
        if VALID in modalities:
            raise DataError(f"a modality cannot be called {VALID!r}: batches use the name")
        if not sources:
            raise DataError("there is no data source")
        self.batch, self.seed, self.split, self.training = batch, seed, split, training
        self.host, self.hosts = host, hosts
        own = np.arange(host, batch, hosts, dtype=np.int64)
        self._share = own if share is None else np.asarray(share, np.int64)
        entries = {name: spec for name, spec in modalities.items() if spec.of is None}
        self._readers = self._opened(sources, entries)
        self._offsets = np.cumsum([0] + [len(reader.whole) for reader in self._readers])
        self._order = self._ordered()
        self._named = any(r.whole.ids(np.zeros(1, np.int64)) for r in self._readers if len(r))
        steps = grain.MapDataset.range(len(self)).map_with_index(lambda at, _: self._build(at))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead * (threads > 0))
        self._dataset = (steps.repeat() if training else steps).to_iter_dataset(options)
        self._iterator: Any = None

    def _opened(
        self, sources: Mapping[str, SourceSpec], entries: Mapping[str, ModalitySpec]
    ) -> list[Reader]:
        """A source without rows of the split takes no part, unless all are without."""
        readers, lacking = [], []
        for name, spec in sources.items():
            try:
                readers.append(
                    Reader(
                        name,
                        spec,
                        entries,
                        split=self.split,
                        seed=self.seed,
                        training=self.training,
                    )
                )
            except NoSplitError as error:
                lacking.append(f"source {name}: {error}")
        if not readers:
            raise DataError("\n".join(lacking))
        return readers

    def _ordered(self) -> Order:
        sizes = [len(reader) for reader in self._readers]
        total = sum(sizes)
        if not self.training:
            return InTurn(sizes, self.seed)
        if total < self.batch:
            raise DataError(
                f"a batch of {self.batch} cannot be filled: there are {total} rows to {self.split}"
            )
        weights = [reader.spec.weight for reader in self._readers]
        given = [weight for weight in weights if weight is not None]
        if not given:
            return Shuffled(sizes, self.seed)
        if len(given) < len(weights):
            lacking = [r.name for r in self._readers if r.spec.weight is None]
            raise DataError(f"give every source a weight, or none: {', '.join(lacking)} has none")
        return Mixed(sizes, self.seed, given, total // self.batch * self.batch)

    @property
    def rows(self) -> int:
        """Rows of the split, over all sources and hosts."""
        return self._order.total

    def __len__(self) -> int:
        """Steps of one epoch."""
        return self.rows // self.batch if self.training else -(-self.rows // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        """Training: this pipeline, going on from where it is. Evaluation: a new pass."""
        return self if self.training else iter(self._dataset)

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._dataset)
        return next(self._iterator)

    def state(self) -> State:
        """Where training stands: integers, the same on every host."""
        step = 0 if self._iterator is None else self._iterator.get_state()["next_index"]
        return {"step": int(step), **self._identity()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, which may come from another number of hosts.

        Raises:
          DataError: the state belongs to other data, another seed or another batch size.
        """
        for name, value in self._identity().items():
            if int(state[name]) != value:
                raise DataError(
                    f"this state is of a pipeline with {name} {int(state[name])};"
                    f" this one has {name} {value}"
                )
        if self._iterator is None:
            self._iterator = iter(self._dataset)
        self._iterator.set_state({"next_index": int(state["step"])})

    def close(self) -> None:
        """Ends the threads that work ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _identity(self) -> State:
        return {"rows": self.rows, "batch": self.batch, "seed": self.seed}

    def _build(self, step: int) -> Batch:
        """This host's share of batch `step`."""
        epoch, at = divmod(step, len(self))
        share = self._share
        picks = self._order.at(epoch, at * self.batch + share)
        index = np.empty(len(share), np.int64)
        parts: list[tuple[NDArray[np.int64], dict[str, Stream]]] = []
        for k, reader in enumerate(self._readers):
            here = np.flatnonzero(picks.source == k)
            if len(here):
                places = picks.place[here]
                parts.append((here, reader.read(places, picks.epoch[here])))
                index[here] = self._offsets[k] + reader.index[places]
        streams = parts[0][1] if len(parts) == 1 else merged(parts, len(share))
        streams[VALID] = Stream(values=picks.valid)  # pyright: ignore[reportArgumentType]
        return Batch(streams, np.where(picks.valid, index, -1), self._ids(picks, index))

    def _ids(self, picks: Picks, index: NDArray[np.int64]) -> list[str] | None:
        if not self._named:
            return None
        names = []
        for source, number, valid in zip(picks.source, index, picks.valid, strict=True):
            reader, row = self._readers[source], number - self._offsets[source]
            own = reader.whole.ids(np.asarray([row]))
            names.append("" if not valid else own[0] if own else f"{reader.name}:{row}")
        return names

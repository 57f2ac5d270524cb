import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import JoinedRows, Rows
from fusekit.errors import DataError
from fusekit_modules.sources.decode import decode


@register
class WebdatasetSpec(SourceSpec):
    """Tar files in the WebDataset layout: members of one key, one file a column.

    `0001.jpg` and `0001.cls` make row `0001` with columns `jpg` and `cls`. Headers are read once to
    find where members lie, so that rows are read in any order without unpacking.
    """

    type: Literal["webdataset"] = "webdataset"
    shards: dict[Literal["train", "validation", "test", "all"], str] = Field(
        min_length=1, description="path of the tar files of each split, * and ? allowed"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"shards": {"train": "train-*.tar", "test": "test-*.tar"}}]

    def anchored(self, folder: Path) -> "WebdatasetSpec":
        """The same with paths from the root, those from `folder` on and no others changed."""
        shards = {
            split: pattern if pattern.startswith("~") else str(folder / pattern)
            for split, pattern in self.shards.items()
        }
        return self.model_copy(update={"shards": shards})

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        parts = {}
        for split, pattern in self.shards.items():
            paths = sorted(glob(str(Path(pattern).expanduser())))
            if not paths:
                raise DataError(f"shards.{split}: no file matches {pattern}")
            samples = [s for path in paths for s in _index(path, Path(path).stat().st_mtime_ns)]
            parts["" if list(self.shards) == ["all"] else split] = TarRows(samples)
        return ShardRows(parts)


class Member(NamedTuple):
    """Where a file lies in a tar."""

    path: str
    offset: int
    size: int


class Sample(NamedTuple):
    """The members of one key."""

    key: str
    members: dict[str, Member]


class TarRows(Sequence[Mapping[str, Any]]):
    """Rows of some tars."""

    def __init__(self, samples: list[Sample]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: Any) -> Any:
        key, members = self.samples[row]
        return {name: _read(key, name, member) for name, member in members.items()}


class ShardRows(JoinedRows):
    """Rows of the splits in turn, named by their keys."""

    def __init__(self, parts: Mapping[str, TarRows]):
        self._samples = [sample for part in parts.values() for sample in part.samples]
        names = dict.fromkeys(name for sample in self._samples for name in sample.members)
        super().__init__(parts, names=tuple(names))

    def ids(self, rows: NDArray[np.int64]) -> list[str] | None:
        return [self._samples[row].key for row in rows]


def _read(key: str, name: str, member: Member) -> Any:
    with open(member.path, "rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    try:
        return decode(name, data)
    except DataError as error:
        error.add_note(f"in {member.path}, {key}.{name}")
        raise


@lru_cache(maxsize=4096)
def _index(path: str, changed: int) -> tuple[Sample, ...]:
    """The samples of one tar, in order. A key runs up to the first dot of the file's name."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                folder, _, base = info.name.rpartition("/")
                stem, dot, extension = base.partition(".")
                if not info.isfile() or not dot or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                samples.setdefault(key, {})[extension] = Member(path, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise DataError(f"{path} is no uncompressed tar: {error}") from error
    return tuple(Sample(key, members) for key, members in samples.items())

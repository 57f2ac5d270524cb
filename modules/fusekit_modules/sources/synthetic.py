from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, ModalitySpec, Rate, SourceSpec, register
from fusekit.data.randomness import generator
from fusekit.data.rows import Rows
from fusekit.stream import Signature


@register
class SyntheticSpec(SourceSpec):
    """Made-up rows of the right shape for whatever modalities are declared: dry runs, tests.

    With `learn` every modality follows a pattern of the row's class, so that there is something
    to learn; without, all is noise. Patterns depend on `seed` and on a modality's name and
    shape; a row's contents on its number as well.
    """

    type: Literal["synthetic"] = "synthetic"
    sizes: dict[Literal["train", "validation", "test"], Count] = Field(
        default={"train": 256, "validation": 64, "test": 64}, description="rows of each split"
    )
    learn: str | None = Field("label", description="the modality with classes to be learned")
    signal: Rate = Field(0.7, description="share of the class's pattern in the contents")
    seed: int = Field(0, ge=0, description="of patterns and contents")

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        return SyntheticRows(self, modalities)


class SyntheticRows(Rows):
    """Rows made when asked for."""

    def __init__(self, spec: SyntheticSpec, modalities: Mapping[str, ModalitySpec]):
        self._spec = spec
        back = {spec.provides.get(m, m): m for m in modalities}
        self._signatures = {c: modalities[m].signature() for c, m in back.items()}
        learned = self._signatures.get(spec.learn or "")
        self._classes = (learned.classes if learned is not None else None) or 0

    def __len__(self) -> int:
        return sum(self._spec.sizes.values())

    def given(self) -> NDArray[Any]:
        return np.repeat(np.asarray(list(self._spec.sizes)), list(self._spec.sizes.values()))

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        label = 0
        if self._classes:
            label = int(generator(self._spec.seed, "class", row).integers(self._classes))
        return {name: self._value(name, row, label) for name in self._signatures}

    def column(self, name: str) -> NDArray[Any]:
        if name in self._signatures:
            return np.asarray([row[name] for row in self])
        return super().column(name)

    def _value(self, name: str, row: int, label: int) -> Any:
        signature = self._signatures[name]
        if self._classes and name == self._spec.learn:
            return label
        rng = generator(self._spec.seed, "row", name, row)
        values = _noise(signature, rng)
        if self._classes:
            pattern = _noise(signature, generator(self._spec.seed, "pattern", name, label))
            values = self._blend(values, pattern, np.asarray(signature.cardinalities), rng)
        if signature.padded and signature.kind == "sequence":
            values = values[: rng.integers(1, signature.length + 1)]
        return values if values.ndim else values.item()

    def _blend(
        self,
        values: NDArray[Any],
        pattern: NDArray[Any],
        categories: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> NDArray[Any]:
        """Numbers are averaged; of codes some are the pattern's."""
        signal = self._spec.signal
        chosen = np.where(rng.random(values.shape) < signal, pattern, values)
        if values.dtype.kind != "f":
            return chosen
        mean = ((1 - signal) * values + signal * pattern).astype(values.dtype)
        return np.where(categories > 0, chosen, mean) if len(categories) else mean


def _noise(signature: Signature, rng: np.random.Generator) -> NDArray[Any]:
    """Contents by kind: codes in integers, 0..1 in grids, normal elsewhere."""
    shape = signature.shape
    if signature.dtype == "bool":
        return rng.random(shape) < 0.5
    if signature.dtype == "int":
        # 0 is left out where there is a choice: modalities of tokens pad with it
        lowest = 1 if signature.kind == "sequence" and (signature.classes or 2) > 1 else 0
        return np.asarray(rng.integers(lowest, signature.classes or 2, size=shape), np.int32)
    if signature.kind == "grid":
        return rng.random(shape, np.float32)
    values = np.asarray(rng.standard_normal(shape), np.float32)
    for field, count in enumerate(signature.cardinalities):
        if count:
            values[field] = rng.integers(count)
    return values

"""What was done to raw data before they became a program's inputs, for those who will send some."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fusekit.component import ModalitySpec, SourceSpec
from fusekit.config.spec import Experiment
from fusekit.data.scale import Scale
from fusekit.errors import ExportError

STANDARDISE = "standardise"


def prepared(experiment: Experiment, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By modality, fields of `fusekit.export.manifest.Input`.

    Scales are found anew from the training rows, as prediction finds them. A scale is told where
    nothing else happens to numbers; elsewhere `standardise` is one of the transforms.

    Raises:
      ExportError: sources scale one modality differently.
      DataError: training rows are needed and cannot be read.
    """
    return {name: _one(experiment, name) for name in names}


def _one(experiment: Experiment, name: str) -> dict[str, Any]:
    sources, spec = experiment.data, experiment.modalities[name]
    scaling = {key: source for key, source in sources.items() if name in source.standardise}
    found = list(dict.fromkeys(
        transform.type
        for source in sources.values()
        for transform in source.transforms.values()
        if transform.when == "always" and name in (transform.touches() or (name,))
    ))  # fmt: skip
    if not scaling:
        return {"transforms": tuple(found)}
    scales = [_scale(source, name, spec) for source in scaling.values()]
    if any(not all(map(np.array_equal, scale, scales[0])) for scale in scales):
        message = f"sources {', '.join(scaling)} standardise {name}, each by its own training rows"
        raise ExportError(f"{message}\n    expected: one of them; --set data.NAME=null deletes one")
    if found or not _as_it_is(spec, scales[0]):
        return {"transforms": (STANDARDISE, *found)}
    mean, deviation = scales[0]
    return {"standardised": {"mean": mean.tolist(), "deviation": deviation.tolist()}}


def _scale(source: SourceSpec, name: str, spec: ModalitySpec) -> Scale:
    column = source.provides.get(name, name)
    rows = source.open("train", {name: spec})
    return Scale.fit(row[column] for row in rows if row.get(column) is not None)


def _as_it_is(spec: ModalitySpec, scale: Scale) -> bool:
    """Whether a raw row of the scale's shape is collated to itself."""
    shape = spec.signature().shape
    given = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values, mask = spec.collate([given])
    return scale.mean.shape == shape and mask is None and np.array_equal(values[0], given)

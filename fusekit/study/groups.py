"""Groups of test rows that are not independent, such as those of one speaker."""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fusekit.config.spec import Experiment
from fusekit.data.rows import PlainRows, View
from fusekit.data.split import NoSplitError
from fusekit.errors import DataError, FusekitError


class Groups:
    """The group of each test row: the values of a column. Equal values of two sources are two
    groups.

    Args:
      experiment: whose data.
      column: of each source that has test rows, or the modality that is read from it.

    Raises:
      DataError: a source cannot be read, or has no such column.
      FusekitError: there are fewer than two groups to draw from.
    """

    def __init__(self, experiment: Experiment, column: str):
        if jax.process_count() > 1:
            raise FusekitError("rows are resampled by group on one host only")
        entries = {name: m for name, m in experiment.modalities.items() if m.of is None}
        self.column, self.of_row = column, dict[int, int]()
        offset, known = 0, dict[tuple[str, Any], int]()
        for name, spec in experiment.data.items():
            try:
                opened: Any = spec.open("test", entries)
            except NoSplitError:
                continue
            if not isinstance(opened, View):
                opened = View(PlainRows(opened), np.arange(len(opened)))
            try:
                values = opened.whole.column(spec.provides.get(column, column))
            except DataError as error:
                raise DataError(f"source {name}: {error}") from error
            if values.ndim != 1:
                raise FusekitError(f"{column} cannot name groups: it has {values.ndim - 1} axes")
            for row in opened.index.tolist():
                group = known.setdefault((name, values[row].item()), len(known))
                self.of_row[offset + row] = group
            offset += len(opened.whole)
        if len(known) < 2:
            raise FusekitError(
                f"there is nothing to resample: {column} has {len(known)} value among test rows"
            )
        self.count = len(known)

    def of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Groups of rows by their numbers, as `Gathered.index` has them."""
        return np.asarray([self.of_row[row] for row in index.tolist()], np.int64)

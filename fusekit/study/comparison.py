"""What a comparison comes to, as plain data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fusekit.study.statistics import Interval

Role = Literal["single", "baseline", "strategy"]


@dataclass(frozen=True)
class Difference:
    """A strategy's score less that of another, on the same seeds and the same rows.

    Args:
      to: the other's name.
      seeds: its mean, and the t interval of the differences by seed.
      samples: the same mean, and the bootstrap interval over test rows.
      rows: how many test rows both answer.
    """

    to: str
    seeds: Interval
    samples: Interval
    rows: int

    @property
    def clear(self) -> bool:
        """Whether both intervals exclude zero."""
        return self.seeds.excludes(0) and self.samples.excludes(0)


@dataclass(frozen=True)
class Margin:
    """A model's mean score less that of what learns nothing, on the same rows.

    Args:
      score: of what learns nothing; of several seeds the mean.
      samples: the difference, and the bootstrap interval over test rows.
      rows: how many test rows count.
      beaten: whether the interval lies wholly on the better side of zero.
    """

    score: float
    samples: Interval
    rows: int
    beaten: bool


@dataclass(frozen=True)
class Entry:
    """One model of a comparison.

    Args:
      name: of the strategy, or the modality.
      role: what it is there for.
      scores: on the test rows, one a seed; NaN where training failed.
      score: their mean and t interval.
      validation: scores on the validation rows, one a seed.
      rate: the learning rate that was chosen.
      rates: the mean validation score at each learning rate of the grid.
      control: test scores after training on shuffled targets; empty where there are none.
      parameters: of the model.
      flops: of one sample forward.
      step_seconds: of one step of training of one seed.
      knob: what was set to meet the budget, by path.
      answered: share of the test rows that it answers; the others lack what it needs.
      notes: what a reader should know.
      vs_single: against the best single modality; None for the single ones.
      vs_baseline: against the baseline; None for it.
      vs_constant: against the constant predictor; None where the metric has none, or none of the
        seeds could be trained.
      vs_control: against its own training on shuffled targets; None without.
      folder: of its runs.
    """

    name: str
    role: Role
    scores: tuple[float, ...]
    score: Interval
    validation: tuple[float, ...]
    rate: float
    rates: dict[float, float]
    control: tuple[float, ...]
    parameters: int
    flops: int
    step_seconds: float
    knob: dict[str, int] = field(default_factory=dict)
    answered: float = 1.0
    notes: tuple[str, ...] = ()
    vs_single: Difference | None = None
    vs_baseline: Difference | None = None
    vs_constant: Margin | None = None
    vs_control: Margin | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The outcome.

    Args:
      title: of the experiment.
      metric: what the scores are.
      better: whether higher or lower scores are better.
      entries: single modalities, the baseline, then the strategies.
      constant: the score of the constant predictor; None where the metric has none.
      budget: what was matched to the baseline within `tolerance`; `none`: nothing.
      tolerance: how far a cost may be off.
      confidence: of every interval.
      resamples: of the bootstrap.
      unit: what it draws: `row`, or the column by whose values test rows were grouped.
      units: how many of them there are.
      rows: of each split.
      seconds: that it took.
      folder: what it wrote.
      finished: whether all entries are there, and their intervals.
    """

    title: str
    metric: str
    better: Literal["higher", "lower"]
    entries: tuple[Entry, ...]
    constant: float | None
    budget: str
    tolerance: float
    confidence: float
    resamples: int
    rows: Mapping[str, int]
    seconds: float
    folder: Path | None = None
    unit: str = "row"
    units: int = 0
    finished: bool = True

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def of(self, role: Role) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.role == role)

    @property
    def best_single(self) -> Entry | None:
        """The single modality with the best mean on the test rows: the hardest to beat."""
        return best(self.of("single"), self.better)

    def paying(self) -> tuple[Entry, ...]:
        """Strategies, and the baseline, that beat the best single modality clearly."""
        sign = 1 if self.better == "higher" else -1
        return tuple(
            entry
            for entry in self.entries
            if (d := entry.vs_single) is not None and d.clear and sign * d.seeds.mean > 0
        )

    @property
    def controlled(self) -> bool:
        """Whether any model was trained on shuffled targets."""
        return any(entry.control for entry in self.entries)

    def unbeaten(self) -> dict[str, tuple[str, ...]]:
        """By control, `constant` and `shuffled`, who does not beat it; only controls there are."""
        found: dict[str, tuple[str, ...]] = {}
        if self.constant is not None:
            found["constant"] = _unbeaten((e.name, e.vs_constant) for e in self.entries)
        if self.controlled:
            found["shuffled"] = _unbeaten((e.name, e.vs_control) for e in self.entries)
        return found

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["folder"] = None if self.folder is None else str(self.folder)
        single = self.best_single
        found["best_single"] = None if single is None else single.name
        found["unbeaten"] = self.unbeaten()
        return found


def _unbeaten(margins: Iterable[tuple[str, Margin | None]]) -> tuple[str, ...]:
    return tuple(name for name, margin in margins if margin is None or not margin.beaten)


def best(entries: Sequence[Entry], better: str) -> Entry | None:
    """The entry with the best mean; None where there is none with a number."""
    sign = 1 if better == "higher" else -1
    known = [entry for entry in entries if entry.score.mean == entry.score.mean]
    return max(known, key=lambda entry: sign * entry.score.mean, default=None)

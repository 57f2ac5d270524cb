"""Comparing strategies: the same data, seeds, batches, budget and grid for every one of them."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path

import numpy as np

from fusekit.config.spec import Experiment
from fusekit.errors import FusekitError
from fusekit.graph import resolve
from fusekit.study.alone import single
from fusekit.study.budget import KNOB, TOLERANCE, Matched, match
from fusekit.study.checks import Knobs, check_knobs, check_rates, knobs_of, metric_of
from fusekit.study.comparison import Comparison, Entry, Role
from fusekit.study.constant import constant_predictor
from fusekit.study.controls import with_margins
from fusekit.study.cost import Budget, Cost
from fusekit.study.differences import with_differences
from fusekit.study.folder import Folder
from fusekit.study.groups import Groups
from fusekit.study.progress import Told
from fusekit.study.reach import modalities_read
from fusekit.study.spec import with_train
from fusekit.study.statistics import CONFIDENCE, RESAMPLES, t_interval
from fusekit.study.targets import Targets, open_split, targets_of
from fusekit.study.trial import Trained, Trial
from fusekit.train.anchor import anchored
from fusekit.train.evaluate import Gathered

Tested = dict[str, list[Gathered | None]]
"""What models say of the test rows, by name and seed; None for a seed that failed."""
FACTORS = (1 / 3, 1.0, 3.0)
"""The default grid, times the declared learning rate."""


def compare(
    experiments: Mapping[str, Experiment],
    *,
    baseline: str = "concat",
    singles: bool = True,
    seeds: int = 5,
    budget: Budget = "parameters",
    knobs: Knobs = (KNOB,),
    rates: Sequence[float] | None = None,
    tune_seeds: int = 1,
    control_seeds: int = 1,
    metric: str | None = None,
    group: str | None = None,
    resamples: int = RESAMPLES,
    root: str | PathLike[str] | None = None,
    name: str | None = None,
    progress: bool = True,
) -> Comparison:
    """Trains every strategy, both controls of each, and says what differs and how surely.

    The learning rate is chosen for each by the mean validation score of its first `tune_seeds`
    seeds, and each model's state by its own validation score; test rows are read once, at the end.

    Args:
      experiments: by name; they differ in how they fuse, not in data or training.
      baseline: the one to which budgets are matched and all are compared.
      singles: whether to derive each modality alone from the baseline; see `single`.
      seeds: from `train.seed` on, at least 1. They differ in first weights and in dropout; all see
        the same batches.
      budget: what is matched to the baseline.
      knobs: what is turned to match it; a mapping by name, or one for all. Of a mapping, `*` is
        for those that it does not name.
      rates: learning rates to choose from; default a third, one and three times the declared one.
      tune_seeds: how many seeds each rate is tried on; all, where they run side by side.
      control_seeds: how many seeds train on shuffled targets; 0 for none.
      metric: to compare by; default `train.select`, or the first.
      group: a column of the sources: test rows of equal value are drawn together, as those of one
        speaker or patient have to be; default each row by itself.
      resamples: of the bootstrap.
      root: where the folder of the comparison is made; None writes nothing.
      name: of that folder's parent; default `compare`.
      progress: whether to show how it goes on standard error.

    Raises:
      FusekitError: the experiments cannot be compared.
      ConfigError, DataError, LayoutError: an experiment is not possible.
    """
    began = time.monotonic()
    if seeds < 1 or tune_seeds < 1 or control_seeds < 0:
        raise FusekitError("a comparison needs at least one seed, also to tune")
    check_rates(rates)
    chosen = metric_of(experiments, baseline, metric)
    experiments = {n: with_train(anchored(e), select=chosen) for n, e in experiments.items()}
    base = experiments[baseline]
    roles: dict[str, Role] = {}
    if singles:
        for modality in modalities_read(base):
            one = f"{modality} only" if modality in experiments else modality
            experiments[one] = single(base, modality)
            roles[one] = "single"
    roles |= {n: "baseline" if n == baseline else "strategy" for n in experiments if n not in roles}
    order = sorted(experiments, key=lambda n: ("single", "baseline", "strategy").index(roles[n]))
    check_knobs(knobs, experiments)
    groups = None if group is None else Groups(base, group)
    factors = FACTORS if rates is None else [rate / base.train.learning_rate for rate in rates]
    graph = resolve(base)
    names = targets_of(graph)
    trainings = len(factors) * min(tune_seeds, seeds) + max(seeds - tune_seeds, 0)
    trainings += min(control_seeds, seeds) if names else 0
    folder = None if root is None else Folder.create(root, name or "compare")
    better = getattr(graph.metrics[chosen].spec, "better", "higher")
    told = Told(1, show=progress)
    study = _Study(seeds, factors, min(tune_seeds, seeds), min(control_seeds, seeds), told)

    def outcome(entries: list[Entry], constant: float | None, *, finished: bool) -> Comparison:
        return Comparison(
            title=base.meta.title or base.meta.name or "experiment",
            metric=chosen,
            better="lower" if better == "lower" else "higher",
            entries=tuple(entries),
            constant=constant,
            budget=budget,
            tolerance=TOLERANCE,
            confidence=CONFIDENCE,
            resamples=resamples,
            unit="row" if groups is None else groups.column,
            units=study.rows["test"] if groups is None else groups.count,
            rows=study.rows,
            seconds=time.monotonic() - began,
            folder=None if folder is None else Path(folder.path),
            finished=finished,
        )

    entries: list[Entry] = []
    tested: Tested = {}
    controls: Tested = {}
    with told.running():
        try:
            study.prepare(base, names)
            told.total = trainings * len(order) * study.steps
            reference = Cost(base)
            for number, one in enumerate(order, 1):
                title = f"{one} ({number} of {len(order)})"
                told.start(f"{title}: budget")
                turned = match(experiments[one], reference, budget, knobs_of(knobs, one))
                entry, tested[one], controls[one] = study.entry(
                    one, roles[one], turned, title, folder
                )
                entries.append(entry)
                if folder is not None:
                    folder.keep(outcome(entries, None, finished=False))
                told.say(_line(entry, chosen))
        except KeyboardInterrupt:
            kept = "" if folder is None or not entries else f", kept in {folder.path}/compare.json"
            told.say(f"stopped: {len(entries)} of {len(order)} models are done{kept}")
            raise
        told.start("intervals")
        known = next((g for rows in tested.values() for g in rows if g is not None), None)
        drawn = None
        if groups is not None and known is not None and known.index is not None:
            drawn = groups.of(known.index)
        constant, answers = None, None
        if known is not None:
            constant, answers = constant_predictor(base, graph, chosen, known)
        entries = with_differences(
            entries,
            tested,
            graph,
            chosen,
            better,
            resamples=resamples,
            baseline=baseline,
            groups=drawn,
        )
        entries = with_margins(
            entries,
            tested,
            controls,
            answers,
            graph,
            chosen,
            better,
            resamples=resamples,
            groups=drawn,
        )
        told.done = told.total
        told.say("done")
    comparison = outcome(entries, constant, finished=True)
    if folder is not None:
        folder.finish(comparison)
    return comparison


class _Study:
    """What all strategies share."""

    def __init__(
        self, seeds: int, factors: Sequence[float], tuning: int, controls: int, told: Told
    ):
        self.seeds, self.factors, self.tuning, self.controls = seeds, factors, tuning, controls
        self.told = told
        self.rows: dict[str, int] = {}
        self.steps = 0
        self.swap: dict[str, Targets] = {}

    def prepare(self, base: Experiment, names: tuple[str, ...]) -> None:
        """Counts rows and steps, and shuffles targets, once for all."""
        from fusekit.train.loop import steps_of

        for split in ("train", "validation", "test"):
            with closing(open_split(base, split, training=split == "train")) as pipeline:
                self.rows[split] = pipeline.rows
                if split == "train":
                    self.steps = steps_of(base, pipeline)
        if names and self.controls:
            self.swap = {
                split: Targets(base, split, names).shuffled(base.train.seed)
                for split in ("train", "validation")
            }

    def entry(
        self, name: str, role: Role, turned: Matched, title: str, folder: Folder | None
    ) -> tuple[Entry, list[Gathered | None], list[Gathered | None]]:
        """Trains one strategy: the entry, its models' answers and those of its controls."""
        told, experiment = self.told, turned.experiment
        told.start(f"{title}: compiling, then learning rates")
        trial = Trial(experiment, seeds=self.seeds, tick=told.ticks)
        tuning = self.seeds if trial.together else self.tuning
        metric = experiment.train.select
        assert metric is not None
        spec = trial.graph.metrics[metric].spec
        sign = 1.0 if getattr(spec, "better", "higher") == "higher" else -1.0
        factor, scores, trained = trial.tuned(self.factors, tuning, sign)
        told.start(f"{title}: seeds")
        trained = [*trained, *trial.run(factor, tuning, self.seeds - tuning)]
        controls: list[Trained] = []
        if self.swap:
            told.start(f"{title}: control on shuffled targets")
            count = self.seeds if trial.together else self.controls
            controls = trial.run(factor, 0, count, self.swap)
        rate = experiment.train.learning_rate
        trained, controls = trial.tested(trained), trial.tested(controls)
        values, shuffled = (_scores(trial, metric, each) for each in (trained, controls))
        notes = [f"cost: {turned.note}"] if turned.note else []
        notes += _notes(values, factor, self.factors, scores)
        rows = next((t.tested.columns[metric].rows for t in trained if t.tested is not None), None)
        path = None if folder is None else folder.runs(name, trial, trained, rate * factor)
        entry = Entry(
            name=name,
            role=role,
            scores=values,
            score=t_interval([v for v in values if v == v]),
            validation=tuple(each.validation for each in trained),
            rate=rate * factor,
            rates={rate * f: score for f, score in scores.items()},
            control=shuffled,
            parameters=turned.cost.parameters,
            flops=turned.cost.flops,
            step_seconds=trial.step_seconds(),
            knob=turned.values,
            answered=1.0 if rows is None else float(np.mean(rows)),
            notes=tuple(notes),
            folder=path,
        )
        return entry, [each.tested for each in trained], [each.tested for each in controls]


def _scores(trial: Trial, metric: str, trained: Sequence[Trained]) -> tuple[float, ...]:
    return tuple(
        float("nan") if each.tested is None else each.tested.metric(trial.graph, metric)
        for each in trained
    )


def _notes(
    values: Sequence[float],
    factor: float,
    factors: Sequence[float],
    scores: Mapping[float, float],
) -> list[str]:
    """What is off about training."""
    notes = []
    failed = sum(v != v for v in values)
    if failed:
        notes.append(f"{failed} of {len(values)} seeds met a number that is not finite")
    if len(factors) > 2 and factor in (min(factors), max(factors)):
        others = [s for f, s in scores.items() if f != factor and s == s]
        if scores[factor] not in others:
            edge = "highest" if factor == max(factors) else "lowest"
            notes.append(f"its learning rate is the {edge} of the grid")
    return notes


def _line(entry: Entry, metric: str) -> str:
    """What is said when an entry is done."""
    values = " ".join(f"{v:.4f}" for v in entry.scores)
    return f"{entry.name}: test {metric} {values} at learning rate {entry.rate:.2g}"

"""Published systems as configs: which there are, and whether one does what it should.

A system works if it trains: the mean of the last losses is at most 0.8 of the first; it answers
better than the constant predictor and than itself after training on shuffled targets, by three
standard errors; it is finite with each optional modality absent; and a restored state goes on bit
for bit.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fusekit.api import load_graph
from fusekit.config import load
from fusekit.config.compose import shipped
from fusekit.config.spec import Experiment
from fusekit.config.stages import staged
from fusekit.config.train import Start
from fusekit.graph import resolve
from fusekit.program import Program
from fusekit.report import svg
from fusekit.report.summary import summarise
from fusekit.study.constant import constant_predictor
from fusekit.study.statistics import draws
from fusekit.study.targets import Targets, targets_of
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.evaluate import Gathered, gather
from fusekit.train.loop import steps_of
from fusekit.train.splits import open_splits
from fusekit.train.turns import changed, given
from fusekit.train.warm import warm

MEASURED = "measured.json"
ENDS = 20
"""Losses at either end that are averaged."""
FALL, ERRORS, RESAMPLES, LAST = 0.8, 3.0, 200, 3


@dataclass(frozen=True)
class System:
    """One published system.

    Args:
      id: its name here.
      path: of its config.
      title, paper: what `meta` says.
      deviations: from the paper, as `meta` says.
      paper_sizes: whether an overlay with the paper's sizes is there.
      measured: what `examine` found when it was last recorded; `None` if it never was.
    """

    id: str
    path: Path
    title: str
    paper: str
    deviations: tuple[str, ...]
    paper_sizes: Path | None
    measured: dict[str, Any] | None


@dataclass
class Examined:
    """What a system came to.

    Args:
      loss: mean of the last losses over the mean of the first.
      metric: by which it is judged.
      score, constant, control: of the system, of the best constant answer (`None` where the
        metric has none), and of the system trained on shuffled targets.
      over_constant, over_control: differences in standard errors.
      absent: by optional modality, whether all is finite without it.
      resumes: whether a restored state goes on bit for bit.
      seconds: in all.
    """

    loss: float = 0.0
    metric: str = ""
    score: float = 0.0
    constant: float | None = None
    control: float = 0.0
    over_constant: float | None = None
    over_control: float = 0.0
    absent: dict[str, bool] = field(default_factory=dict)
    resumes: bool = False
    seconds: float = 0.0

    def faults(self) -> list[str]:
        """What it does not do."""
        found: list[str] = []
        if not self.loss <= FALL:
            found.append(f"the loss falls to {self.loss:.2f} of its beginning, {FALL} is due")
        if self.over_constant is not None and not self.over_constant >= ERRORS:
            found.append(f"{self.over_constant:.1f} standard errors over the constant predictor")
        if not self.over_control >= ERRORS:
            found.append(f"{self.over_control:.1f} standard errors over shuffled targets")
        found += [f"not finite without {name}" for name, fine in self.absent.items() if not fine]
        return found if self.resumes else [*found, "a restored state goes on otherwise"]

    def record(self) -> dict[str, Any]:
        """For a file."""
        plain = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**plain, "works": not self.faults()}


def systems() -> Iterator[System]:
    """The systems that come with the package, by name."""
    folder = shipped() / "zoo"
    record = folder / MEASURED
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for path in sorted(folder.glob("*.yaml")):
        meta = load(path).experiment.meta
        overlay = folder / "paper" / path.name
        yield System(
            path.stem,
            path,
            meta.title or path.stem,
            meta.paper or "",
            meta.deviations,
            overlay if overlay.is_file() else None,
            known.get(path.stem),
        )


def examine(path: Path, *, say: Callable[[str], None] = lambda text: None) -> Examined:
    """Trains and judges one system; see the module. Raises what loading and training raise."""
    began = time.monotonic()
    found = Examined()
    loaded, graph = load_graph(path)
    svg.render(summarise(graph, title=path.stem))
    experiment = loaded.experiment
    say("training")
    program, state, losses = _trained(experiment, found=found)
    found.loss = float(np.mean(losses[-ENDS:]) / np.mean(losses[:ENDS]))
    last = [experiment, *staged(experiment).values()][-1]
    found.metric = last.train.select or next(iter(program.graph.metrics))
    tested = _tested(program, state, last)
    found.absent = _absent(program, state, last)
    say("training on shuffled targets")
    _, shuffled, _ = _trained(experiment, program=program)
    control = _tested(program, shuffled, last)
    _judge(found, program, last, tested, control)
    found.seconds = time.monotonic() - began
    return found


def _trained(
    experiment: Experiment, *, found: Examined | None = None, program: Program | None = None
) -> tuple[Program, Any, list[float]]:
    """Trains all stages; the losses are those of the last.

    Args:
      experiment: what to train.
      found: where to note whether the last stage resumes.
      program: of the last stage, from an earlier call: then on shuffled targets, in all stages.
    """
    stages = staged(experiment) or {"train": experiment}
    flats: dict[str, Any] = {}
    current: Any = program
    state: Any = None
    losses: list[float] = []
    for name, stage in stages.items():
        splits = open_splits(stage)
        try:
            final = name == list(stages)[-1]
            current = program
            if current is None or not final:
                steps = steps_of(stage, splits["train"])
                current = Program(resolve(stage), steps=steps)
            state = current.init()
            if flats:
                rules = stage.train.origin or Start.model_validate({})
                source = flats[rules.stage or list(flats)[-1]]
                state, _ = warm(current, state, rules, source, flats)
            targets = None if program is None else _shuffled(current, stage)
            noted = found if final else None
            state, losses = _steps(current, state, splits["train"], targets, noted)
            flats[name] = {k: np.array(v) for k, v in current.flat(state).items()}
        finally:
            for split in splits.values():
                split.close()
    return current, state, losses


def _steps(
    program: Program, state: Any, batches: Any, targets: Targets | None, found: Examined | None
) -> tuple[Any, list[float]]:
    """All steps of a stage. With `found` the last few are done twice: from a checkpoint too."""
    losses: list[float] = []
    kept: list[Any] = []
    with tempfile.TemporaryDirectory() as folder, closing(Checkpoints(folder, wait=True)) as saved:
        for step in range(program.steps):
            batch = next(batches)
            task, streams = given(batch if targets is None else changed(batch, targets.into))
            if found is not None and step == program.steps - LAST:
                saved.save(program, state)
            if step >= program.steps - LAST:
                kept.append((task, streams))
            state, metrics = program.step(state, streams, task=task)
            losses.append(float(metrics["loss"]))
        if found is not None:
            again = saved.restore(program).state
            for task, streams in kept:
                again, _ = program.step(again, streams, task=task)
            one, other = program.flat(state), program.flat(again)
            found.resumes = all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)
    return state, losses


def _shuffled(program: Program, stage: Experiment) -> Targets:
    """Targets at other rows; of a system without any, the modality that it declares last."""
    names = targets_of(program.graph)
    if not names:
        names = tuple(name for name, spec in stage.modalities.items() if spec.of is None)[-1:]
    return Targets(stage, "train", names).shuffled(stage.train.seed)


def _tested(program: Program, state: Any, stage: Experiment) -> Gathered:
    with closing(open_splits(stage)["test"]) as pipeline:
        found = gather(program, state, pipeline)
    assert isinstance(found, Gathered)
    return found


def _absent(program: Program, state: Any, stage: Experiment) -> dict[str, bool]:
    """Whether evaluation is finite with each optional modality absent from every row."""
    found: dict[str, bool] = {}
    with closing(open_splits(stage)["test"]) as pipeline:
        batch = next(iter(pipeline)).streams
    for name, spec in stage.modalities.items():
        if not spec.optional or spec.of is not None or name not in program.graph.inputs:
            continue
        none = np.zeros(batch[name].values.shape[0], bool)
        without = {**batch, name: batch[name].with_(presence=none)}
        outputs = jax.tree.leaves(program.evaluate(state, without))
        numbers = [np.asarray(leaf) for leaf in outputs]
        found[name] = all(np.isfinite(n).all() for n in numbers if n.dtype.kind == "f")
    return found


def _judge(
    found: Examined, program: Program, stage: Experiment, tested: Gathered, control: Gathered
) -> None:
    graph, metric = program.graph, found.metric
    sign = 1.0 if getattr(graph.metrics[metric].spec, "better", "higher") == "higher" else -1.0
    constant, columns = constant_predictor(stage, graph, metric, tested)
    measures = [partial(each.metric, graph, metric) for each in (tested, control)]
    if columns is not None:
        measures.append(partial(Gathered({}, {metric: columns}).metric, graph, metric))
    rows = len(tested.columns[metric].rows)
    drawn = draws(rows, measures, resamples=RESAMPLES, seed=0)
    found.score, found.control = (float(each.metric(graph, metric)) for each in (tested, control))
    found.constant = constant

    def errors(other: int, value: float) -> float:
        spread = float(np.std(drawn[:, 0] - drawn[:, other], ddof=1))
        return sign * (found.score - value) / max(spread, 1e-9)

    found.over_control = errors(1, found.control)
    if constant is not None:
        found.over_constant = errors(2, constant)

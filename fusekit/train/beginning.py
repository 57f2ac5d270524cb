"""What a training begins with: fresh parameters, those of a folder, or those of earlier stages."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusekit.config.train import Start
from fusekit.errors import FusekitError
from fusekit.program import Program
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.files import write_json
from fusekit.train.replicas import joined, split
from fusekit.train.run import Run
from fusekit.train.warm import Report, averaged, warm


@dataclass(frozen=True)
class Warmth:
    """What a training starts from: a folder of checkpoints, or states of earlier stages.

    Args:
      folder: whose parameters all have to fit.
      stages: folders of earlier stages, in order.
    """

    folder: Path | None = None
    stages: dict[str, Path] = field(default_factory=dict)


def warmed(program: Program, state: Any, warmth: Warmth | None, run: Run, progress: bool) -> Any:
    """The state with the parameters that the stage begins with."""
    rules = program.train.origin
    if warmth is not None and warmth.folder is not None:
        return Checkpoints(warmth.folder).parameters_only(program, state)
    stages = {} if warmth is None else warmth.stages
    if rules is None and not stages:
        return state
    rules = rules or Start.model_validate({})
    every = [
        _warm_one(program, one, index, rules, stages)
        for index, one in enumerate(split(program, state))
    ]
    report = every[0][1]
    if run.writes:
        write_json(run.folder / "start.json", report.plain())
    if progress:
        print(f"start: {report.line()}", file=sys.stderr)
    return joined(program, [one for one, _ in every])


def _warm_one(
    program: Program, state: Any, index: int, rules: Start, stages: dict[str, Path]
) -> tuple[Any, Report]:
    """One replica's state, from the same replica of each stage."""
    flats = Flats(stages, index)
    if rules.folder is not None:
        flat: Any = Checkpoints(rules.folder).flat(index)
    elif rules.average is not None:
        flat = averaged(flats, rules.average)
    elif rules.stage is not None or stages:
        flat = flats[rules.stage or list(stages)[-1]]
    else:
        raise FusekitError("train.start copies from stages, and there is none")
    return warm(program, state, rules, flat, flats)


class Flats(Mapping[str, Any]):
    """The states of earlier stages by canonical path, each read when it is asked for: the best
    where the stage selected one, the last otherwise."""

    def __init__(self, folders: Mapping[str, Path], replica: int):
        self._folders, self._replica = folders, replica
        self._read: dict[str, Any] = {}

    def __getitem__(self, stage: str) -> Any:
        if stage not in self._read:
            run = Run(self._folders[stage])
            best = run.best(self._replica, run.replicas())
            kept = best if best.steps() else run.checkpoints
            self._read[stage] = kept.flat(0 if best.steps() else self._replica)
        return self._read[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

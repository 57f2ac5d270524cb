"""The folder of a run: `runs/<name>/<UTC time>/`.

config.yaml        the experiment, every default spelt out
environment.json   versions, devices, commit, command
metrics.jsonl      one object a line: step, time, split, values (lists where there are replicas)
tensorboard/       the same as TensorBoard events
checkpoints/       the newest; see `fusekit.train.checkpoint`
best/              the best by `train.select`; `best_<k>/`, one a replica, where there are some
stages/<name>/     where there are stages, a folder like this one for each
start.json         of a warm start: what was loaded, missing, unused
summary.json       status, steps, final metrics, parameter counts
report.html        all of it to look at
"""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import jax

from fusekit.config import dump_resolved
from fusekit.config.spec import Experiment
from fusekit.errors import CheckpointError, FusekitError
from fusekit.hosts.rows import agreed
from fusekit.train.anchor import anchored
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.environment import environment
from fusekit.train.files import append, tame, write, write_json
from fusekit.train.report import read_metrics, report
from fusekit.train.resumable import check_resumable

SEEN = 30.0
"""Seconds in which what one host writes is seen by the others."""

STAMP = "%Y-%m-%dT%H-%M-%SZ"
Values = Mapping[str, float] | Sequence[Mapping[str, float]]
"""Values by name; a list of such, one a replica."""


class Run:
    """Writes a run folder. Over several hosts only the first writes, checkpoints aside.

    Use `Run.create` or `Run.reopen`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.writes = first_host()

    @classmethod
    def create(
        cls,
        experiment: Experiment,
        *,
        root: str | PathLike[str] = "runs",
        name: str | None = None,
        replicas: int = 1,
    ) -> "Run":
        """A new folder with the config, the environment and how many replicas there are in it.

        Raises:
          FusekitError: the name cannot be that of a folder, or the folder cannot be made.
        """
        name = name or experiment.meta.name or "run"
        if Path(name).name != name or name in (".", ".."):
            raise FusekitError(f"a run cannot be called {name!r}: the name is that of a folder")
        stamp = _agreed(datetime.now(UTC).strftime(STAMP))
        folder = Path(root) / name / stamp
        run = cls(folder)
        if run.writes:
            run = cls(_fresh(folder))
            run.take(experiment, replicas)
            write_json(run.folder / "environment.json", environment())
        own = run.folder.name.removeprefix(folder.name)
        number = agreed(int(own.removeprefix("-") or 1))
        run = cls(folder if number == 1 else folder.with_name(f"{folder.name}-{number}"))
        run._seen()
        return run

    def _seen(self) -> None:
        """Raises `FusekitError` if this host does not find what the first has written."""
        until = time.monotonic() + SEEN
        while not (self.folder / "summary.json").is_file():
            if time.monotonic() > until:
                raise FusekitError(
                    f"host {jax.process_index()} does not see {self.folder}, which the first host"
                    " has made\n    expected: a folder of runs that all hosts share"
                )
            time.sleep(0.1)

    def stage(self, name: str, experiment: Experiment, replicas: int) -> "Run":
        """The folder of one stage within this run, made if it is not there."""
        run = Run(self.folder / "stages" / name)
        if self.writes and not (run.folder / "config.yaml").is_file():
            run.folder.mkdir(parents=True, exist_ok=True)
            run.take(experiment, replicas)
            write_json(run.folder / "environment.json", environment())
        return run

    @classmethod
    def reopen(cls, folder: str | PathLike[str], experiment: Experiment) -> "Run":
        """A folder to go on in. Warns if the experiment is another than it was.

        Nothing is written: `take` writes the experiment, once its state has been restored.

        Raises:
          FusekitError: it holds no run to go on with.
        """
        folder = Path(folder)
        check_resumable(folder)
        run, text = cls(folder), dump_resolved(anchored(experiment))
        before = (folder / "config.yaml").read_text(encoding="utf-8")
        if before != text:
            warnings.warn(
                f"the experiment differs from that of {folder}: {_difference(before, text)}",
                stacklevel=2,
            )
        return run

    def take(self, experiment: Experiment, replicas: int, step: int = 0) -> None:
        """Writes down that the run trains an experiment from a step on, paths from the root."""
        if self.writes:
            write(self.folder / "config.yaml", dump_resolved(anchored(experiment)))
            name = self.name
            summary = {"name": name, "status": "running", "steps": step, "seconds": 0.0}
            write_json(
                self.folder / "summary.json", {**summary, "metrics": {}, "replicas": replicas}
            )

    @property
    def name(self) -> str:
        """Of the run; of a stage, its own."""
        staged = self.folder.parent.name == "stages"
        return self.folder.name if staged else self.folder.parent.name

    def summary(self) -> dict[str, Any]:
        """What the summary says; nothing if there is none that can be read."""
        try:
            return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def replicas(self) -> int:
        """How many replicas the run trains: as its checkpoints say, or else its summary."""
        for step in reversed(self.checkpoints.steps()):
            try:
                return int(self.checkpoints.about(step)["replicas"])
            except (CheckpointError, KeyError):
                continue
        return int(self.summary().get("replicas", 1))

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The newest states, all replicas in each."""
        return Checkpoints(self.folder / "checkpoints")

    @cached_property
    def _best(self) -> dict[int, Checkpoints]:
        return {}

    def best(self, replica: int = 0, replicas: int = 1) -> Checkpoints:
        """The best state of a replica."""
        name = "best" if replicas == 1 else f"best_{replica}"
        return self._best.setdefault(replica, Checkpoints(self.folder / name, keep=1))

    @cached_property
    def _events(self) -> Any:
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"))

    def log(self, step: int, split: str, values: Values) -> None:
        """A line of metrics, and TensorBoard events.

        Args:
          step: of the state that the values belong to.
          split: train, validation or test.
          values: by name; a list, one a replica, gives lists.
        """
        if not self.writes:
            return
        columns = _columns(values)
        line = {
            "step": step,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "split": split,
            "values": tame(columns),
        }
        text = json.dumps(line, allow_nan=False, ensure_ascii=False)
        append(self.folder / "metrics.jsonl", text + "\n")
        for name, value in columns.items():
            listed = isinstance(value, list)
            for k, one in enumerate(value if listed else [value]):
                if math.isfinite(one):
                    tag = f"{split}/{name}/{k}" if listed else f"{split}/{name}"
                    self._events.add_scalar(tag, float(one), step)

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Deletes metrics that will be written again: of steps after `step`, of the test, and
        those of validation at `step` unless it is `evaluated`."""
        path = self.folder / "metrics.jsonl"
        if self.writes and path.is_file():
            kept = [
                line
                for line in read_metrics(self.folder)
                if line["step"] <= step - (line["split"] == "validation" and not evaluated)
                and line["split"] != "test"
            ]
            write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def finish(
        self, summary: Mapping[str, Any], *, pictures: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Writes the summary and the report."""
        if self.writes:
            write_json(self.folder / "summary.json", summary)
            report(self.folder, pictures=pictures)

    def _opened(self) -> list[Checkpoints]:
        newest = [self.checkpoints] if "checkpoints" in self.__dict__ else []
        return [*newest, *self._best.values()]

    def wait(self) -> None:
        """Returns when every checkpoint is written. Raises `CheckpointError`."""
        for checkpoints in self._opened():
            checkpoints.wait()

    def close(self) -> None:
        """Waits for checkpoints, closes files. Raises `CheckpointError`."""
        if "_events" in self.__dict__:
            self._events.close()
        for checkpoints in self._opened():
            checkpoints.close()


def first_host() -> bool:
    """Whether this is the host that writes and speaks for all."""
    return jax.process_index() == 0


def columns_of(values: Values) -> list[Mapping[str, float]]:
    """One mapping a replica."""
    return [values] if isinstance(values, Mapping) else list(values)


def _columns(values: Values) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    return {name: [each[name] for each in values] for name in (values[0] if values else ())}


def _fresh(folder: Path) -> Path:
    """Makes the folder; if one started in the same second, the next free name.

    Raises `FusekitError` if it cannot be made.
    """
    number = 1
    while True:
        tried = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            tried.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise FusekitError(f"{tried} cannot be made: {error.strerror or error}") from error
        else:
            return tried


def _agreed(stamp: str) -> str:
    """The first host's time, on every host."""
    if jax.process_count() == 1:
        return stamp
    import numpy as np
    from jax.experimental import multihost_utils

    codes = multihost_utils.broadcast_one_to_all(np.frombuffer(stamp.encode(), np.uint8))
    return bytes(np.asarray(codes)).decode()


def _difference(before: str, after: str) -> str:
    """The first lines that differ."""
    old, new = before.splitlines(), after.splitlines()
    lost = [line.strip() for line in old if line not in new][:3]
    come = [line.strip() for line in new if line not in old][:3]
    return f"{'; '.join(lost) or 'nothing'} became {'; '.join(come) or 'nothing'}"

"""What a comparison leaves: `<root>/<name>/<UTC time>/`.

environment.json   versions, devices, commit, command
compare.json       everything that was measured
compare.md         the tables
<strategy>/seed_<k>/config.yaml, best/: each model, to be opened like any run
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

from fusekit.config import dump_resolved
from fusekit.program import Program
from fusekit.study.comparison import Comparison
from fusekit.study.rated import unrated
from fusekit.study.spec import with_train
from fusekit.study.table import markdown
from fusekit.study.trial import Trained, Trial
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.environment import environment
from fusekit.train.files import write, write_json
from fusekit.train.run import STAMP


@dataclass(frozen=True)
class Folder:
    """Writes it."""

    path: Path

    @classmethod
    def create(cls, root: str | PathLike[str], name: str) -> "Folder":
        stamp = datetime.now(UTC).strftime(STAMP)
        number = 1
        while True:
            path = Path(root) / name / (stamp if number == 1 else f"{stamp}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                write_json(path / "environment.json", environment())
                return cls(path)

    def runs(self, name: str, trial: Trial, trained: Sequence[Trained], rate: float) -> str:
        """Writes each seed's model; `fusekit evaluate` opens it."""
        folder = self.path / re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
        program = Program(trial.graph, layout=trial.program.layout, steps=trial.steps)
        config = dump_resolved(with_train(trial.experiment, learning_rate=rate))
        for seed, each in enumerate(trained, trial.experiment.train.seed):
            if each.state is None:
                continue
            run = folder / f"seed_{seed}"
            run.mkdir(parents=True)
            write(run / "config.yaml", config)
            best = Checkpoints(run / "best", keep=1, wait=True)
            extra = {"metric": trial.experiment.train.select, "value": each.validation}
            best.save_replica(program, unrated(each.state), extra=extra)
        return str(folder.relative_to(self.path))

    def finish(self, comparison: Comparison) -> None:
        write_json(self.path / "compare.json", comparison.as_dict())
        write(self.path / "compare.md", markdown(comparison))

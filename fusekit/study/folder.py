"""What a comparison leaves: `<root>/<name>/<UTC time>/`.

environment.json   versions, devices, commit, command
compare.json       everything that was measured; while it runs, of the models that are done
compare.md         the tables
<strategy>/seed_<k>/config.yaml, best/: each model, to be evaluated like any run
<strategy>/README.md: on which batches they were trained
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

from fusekit.config import dump_resolved
from fusekit.config.spec import Experiment
from fusekit.program import Program
from fusekit.study.comparison import Comparison
from fusekit.study.rated import unrated
from fusekit.study.spec import changed, with_sections, with_train
from fusekit.study.table import markdown
from fusekit.study.trial import Trained, Trial
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.environment import environment
from fusekit.train.files import write, write_json
from fusekit.train.run import STAMP

README = """`seed_<k>/best` is the model of seed k at its best on the validation rows.

All seeds saw the batches of seed {first}: seed k decided the first weights and dropout, but the
order of rows, and what is drawn in them, came from seed {first}. `fusekit evaluate` opens these
folders; where something is drawn in test rows, such as missing modalities, add
`--set train.seed={first}` to have the rows of the comparison. They hold no state to go on from, and
`fusekit train --resume` refuses them; `--start seed_<k>/best` takes a model's parameters.
"""


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
        first = trial.experiment.train.seed
        for seed, each in enumerate(trained, first):
            if each.state is None:
                continue
            run = folder / f"seed_{seed}"
            run.mkdir(parents=True)
            config = _config(trial.experiment, rate, seed, first)
            write(run / "config.yaml", dump_resolved(config))
            best = Checkpoints(run / "best", keep=1, wait=True)
            extra = {"metric": trial.experiment.train.select, "value": each.validation}
            best.save_replica(program, unrated(each.state), extra=extra)
        if folder.is_dir():
            write(folder / "README.md", README.format(first=first))
        return str(folder.relative_to(self.path))

    def keep(self, comparison: Comparison) -> None:
        """What there is so far, should it be stopped."""
        write_json(self.path / "compare.json", comparison.as_dict())

    def finish(self, comparison: Comparison) -> None:
        self.keep(comparison)
        write(self.path / "compare.md", markdown(comparison))


def _config(experiment: Experiment, rate: float, seed: int, first: int) -> Experiment:
    """The experiment of one seed, with a note where its batches were those of another."""
    if seed != first:
        own = f"Seed {seed} of a comparison: its batches were those of seed {first}."
        notes = " ".join(filter(None, (experiment.meta.notes, own)))
        experiment = with_sections(experiment, meta=changed(experiment.meta, notes=notes))
    return with_train(experiment, learning_rate=rate, seed=seed)

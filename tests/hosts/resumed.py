"""Trains as one of several hosts, notes every row that it reads, and may be killed by itself."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import jax

import fusekit
from fusekit.data.pipeline import Pipeline
from fusekit.hosts.join import joined
from fusekit.train.experiment import train
from tests.hosts.measure import CONFIG


def noted(file: Path, killed_at: int) -> None:
    """From here on every batch of training rows is written down: number and digest by row."""
    following = Pipeline.__next__

    def following_noted(self):
        batch = following(self)
        rows = {}
        for k, number in enumerate(batch.index.tolist()):
            leaves = [leaf[k] for leaf in jax.tree.leaves(batch.streams)]
            text = b"".join(leaf.tobytes() for leaf in leaves)
            rows[number] = hashlib.sha256(text).hexdigest()
        step = self.state()["step"]
        with file.open("a") as lines:
            lines.write(json.dumps({"step": step, "rows": rows}) + "\n")
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch

    Pipeline.__next__ = following_noted


def main(runs: str, resume: str, victim: str, step: str) -> None:
    with joined() as place:
        host = 0 if place is None else place.process
        noted(Path(f"rows-{host}.jsonl"), int(step) if host == int(victim) else -1)
        sets = ["mesh.data=-1", "train.checkpoint_every=4"]
        train(fusekit.load(CONFIG, sets), run_root=runs, name="run", resume=resume or None)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Whether training can go on in a folder."""

import shlex
from pathlib import Path

from fusekit.errors import FusekitError


def check_resumable(folder: Path) -> None:
    """Raises `FusekitError` for what holds no run to go on with.

    A run has written its summary or a checkpoint. A model of a comparison has only its best
    state: nothing says where its batches stood, and to go on with it would be to begin anew.
    """
    if not (folder / "config.yaml").is_file():
        raise FusekitError(f"{folder} is no run folder: it has no config.yaml")
    if (folder / "summary.json").is_file() or (folder / "checkpoints").is_dir():
        return
    best = shlex.quote(str(folder / "best"))
    raise FusekitError(
        f"{folder} holds no state to go on from: it is no folder of `fusekit train`, but of a"
        " model that `fusekit compare` left\n"
        f"    expected: a run; or a new one that takes the model's parameters, with --start {best}"
    )

"""`fusekit launch`: the files that run an experiment on a pod. It submits nothing."""

import re
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusekit.cli.options import Config, Sets, UsageError, resolved, title, without_device

if TYPE_CHECKING:
    from fusekit_tpu.launch import Target

LABEL = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
"""A name that every target takes."""


def command(
    config: Config,
    target: Annotated[
        str,
        typer.Option(metavar="TARGET", help="gke, xpk, queued-resources, slurm, ray or container"),
    ],
    topology: Annotated[
        str, typer.Option(metavar="CHIP:SHAPE", help="as v5e:16x16, or h200:8x4 for 4 machines")
    ],
    slices: Annotated[int, typer.Option(metavar="N", help="how many of that shape")] = 1,
    sets: Sets = None,
    name: Annotated[
        str | None, typer.Option(help="of job and run; default meta.name, or the file's")
    ] = None,
    image: Annotated[str | None, typer.Option(help="the container to run")] = None,
    runs: Annotated[
        str | None,
        typer.Option(metavar="STORAGE", help="where runs lie: gs://…, pvc://… or a path"),
    ] = None,
    restarts: Annotated[int, typer.Option(min=0, metavar="N", help="at most")] = 10,
    cluster: Annotated[str | None, typer.Option(help="of GKE, for xpk")] = None,
    zone: Annotated[str | None, typer.Option(help="of Google Cloud")] = None,
    project: Annotated[str | None, typer.Option(help="of Google Cloud")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="machines that may be taken away")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="write the files there"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="make the files; without it nothing is made")
    ] = False,
) -> None:
    """Make the files of a job for a pod."""
    without_device()
    from fusekit_tpu.launch import TARGETS, Job, Place, Storage
    from fusekit_tpu.topology import Topology

    chosen = _target(target, TARGETS)
    shape = Topology.parse(topology, slices=slices)
    if runs is None:
        raise UsageError("--runs says where runs lie: gs://BUCKET/FOLDER, pvc://CLAIM or a path")
    storage = Storage.parse(runs)
    loaded, graph = resolved(config, sets)
    from fusekit.config import dump
    from fusekit.remat import offloads
    from fusekit.train.anchor import anchored
    from fusekit_tpu.launch.fitting import check_batches, sized

    experiment, placed = loaded.experiment, anchored(loaded.experiment)
    if not chosen.local and placed != experiment:
        warnings.warn(
            "data have relative paths: they are looked for in the container's folder", stacklevel=2
        )
    sizes = sized(experiment, shape)
    job = Job(
        _name(name, title(loaded, config)),
        shape,
        dump(placed if chosen.local else experiment),
        sizes,
        storage,
        image,
        restarts,
        Place(cluster, zone, project, spot),
        offloads(graph),
    )
    chosen.check(job)
    check_batches(experiment, sizes)
    if not dry_run:
        folder = str(output or "FOLDER")
        raise UsageError(
            "fusekit submits nothing: make the files with --dry-run, look at them, then run\n"
            f"    {chosen.submit(job, shlex.quote(folder))}"
        )
    files = chosen.files(job)
    if output is None:
        for file, text in files.items():
            typer.echo(f"==> {file} <==\n{text}")
        return
    _write(files, output)
    typer.echo(f"made {', '.join(str(output / file) for file in files)}; to submit:")
    typer.echo(f"    {chosen.submit(job, shlex.quote(str(output)))}")


def _target(name: str, known: "dict[str, Target]") -> "Target":
    from fusekit.errors import nearest

    if name not in known:
        near = nearest(name, known)
        hint = f"\n    did you mean: {', '.join(near)}" if near else ""
        raise UsageError(
            f"there is no such target\n    found: {name}\n    expected: {', '.join(known)}{hint}"
        )
    return known[name]


def _name(given: str | None, title: str) -> str:
    """A name for the job: what was given, or a title with what no target takes left out."""
    name = given
    if name is None:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    if not re.fullmatch(LABEL, name):
        raise UsageError(
            f"a job cannot be called {name!r}: --name is a letter, then at most 39 small letters,"
            " digits and hyphens"
        )
    return name


def _write(files: dict[str, str], folder: Path) -> None:
    """Writes files. Raises `UsageError` if one is there that says something else."""
    for file, text in files.items():
        path = folder / file
        if path.exists() and path.read_bytes() != text.encode():
            raise UsageError(f"{path} exists and says something else: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")

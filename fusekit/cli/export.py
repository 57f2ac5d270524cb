"""`fusekit export`: what a run has learned, for processes that have jax and not fusekit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusekit.cli.opened import last_stage, open_run
from fusekit.cli.options import Replica, Sets, Which, without_device

if TYPE_CHECKING:
    from fusekit.export.manifest import Stored

ONE_DEVICE = [f"mesh.{axis}=1" for axis in ("data", "fsdp", "expert", "sequence", "tensor")]


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="to be made; default RUN/export"),
    ] = None,
    platforms: Annotated[
        str, typer.Option(metavar="A,B", help="of cpu, cuda and tpu: where it is to run")
    ] = "cpu,cuda,tpu",
    heads: Annotated[str | None, typer.Option(metavar="A,B", help="default all")] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="default|high|highest",
            help="of matrix products; default: that of the process which runs it",
        ),
    ] = "default",
    kernels: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="ROWS", help="with kernels where a platform has them, for ROWS at once"
        ),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="write model.onnx too")] = False,
    sets: Sets = None,
    replica: Replica = 0,
    which: Which = "best",
) -> None:
    """Export a run: StableHLO with its parameters."""
    without_device()
    opened = open_run(run, [*(sets or ()), *ONE_DEVICE], replica=replica, which=which)
    from fusekit.export.prepared import prepared
    from fusekit.export.write import export

    program = opened.program
    folder = output or last_stage(run) / "export"
    manifest = export(
        program,
        opened.state,
        folder,
        heads=None if heads is None else _names(heads),
        platforms=_names(platforms),
        precision=precision,
        kernels=kernels,
        prepared=lambda names: prepared(opened.experiment, names),
        origin={"run": run.resolve().name, "step": opened.step, "state": which},
        onnx=onnx,
    )
    typer.echo(f"inputs    {', '.join(one.name for one in manifest.inputs)}")
    typer.echo(f"answers   {', '.join(one.name for one in manifest.outputs)}")
    typer.echo(f"platforms {', '.join(map(_told, manifest.programs, manifest.programs.values()))}")
    typer.echo(f"wrote {folder}, parameters of {manifest.parameters.bytes:,} bytes")


def _told(platform: str, program: "Stored") -> str:
    return platform if program.rows is None else f"{platform} (kernels, {program.rows} rows)"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]

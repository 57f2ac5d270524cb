"""`fusekit serve`: an export behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from fusekit.cli.options import UsageError


def command(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="the folder of an export")],
    host: Annotated[str, typer.Option(help="where to listen")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8000,
    max_batch: Annotated[
        int, typer.Option(min=1, max=4096, metavar="N", help="most rows of a batch and a request")
    ] = 32,
    wait_ms: Annotated[
        float, typer.Option(min=0.0, max=10_000.0, help="how long a request waits for others")
    ] = 2.0,
    max_body: Annotated[
        float, typer.Option(min=0.001, max=1024.0, metavar="MIB", help="largest request")
    ] = 16.0,
) -> None:
    """Serve an export over HTTP, in batches."""
    try:
        from fusekit.export.serve.server import serve
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("starlette", "uvicorn"):
            raise
        message = f"serving needs {name}: pip install 'fusekit[serve]'"
        raise UsageError(message) from error
    serve(
        export,
        host=host,
        port=port,
        max_batch=max_batch,
        wait_ms=wait_ms,
        max_body=int(max_body * (1 << 20)),
        say=typer.echo,
    )
    typer.echo("stopped")

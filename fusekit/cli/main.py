"""Entry point of `fusekit`. What a command needs beyond its options it imports when it runs."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

COMMANDS = (
    "check",
    "show",
    "train",
    "compare",
    "evaluate",
    "predict",
    "export",
    "serve",
    "plan",
    "launch",
    "list",
    "schema",
    "new",
    "zoo",
    "doctor",
    "test-component",
)
"""Each is the function `command` of the module of that name."""

TRACEBACK = "--traceback"


def _version(show: bool) -> None:
    if show:
        from fusekit import __version__

        typer.echo(f"fusekit {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="show where an error arose; also after a command")
    ] = False,
) -> None:
    """Declarative multimodal fusion: a config in, a sharded JAX program out."""


def application() -> typer.Typer:
    """The commands, assembled."""
    app = typer.Typer(
        name="fusekit",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in COMMANDS:
        module = import_module(f"fusekit.cli.{name.replace('-', '_')}")
        app.command(name)(module.command)
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns the exit status. Errors go to stderr as plain text."""
    own = list(arguments)
    upto = own.index("--") if "--" in own else len(own)
    shown = TRACEBACK in own[:upto]
    own = [a for n, a in enumerate(own) if a != TRACEBACK or n > upto]
    try:
        application()(own, prog_name="fusekit")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        from fusekit.status import INTERRUPTED

        typer.echo("stopped", err=True)
        return INTERRUPTED
    except Exception as error:
        from fusekit.errors import FusekitError
        from fusekit.status import status_of

        if shown or not isinstance(error, FusekitError | OSError):
            raise
        typer.echo(told(error), err=True)
        return status_of(error)
    return 0


def told(error: Exception) -> str:
    """What is said of an error: its message, and what was noted of where it arose."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([*names, error.strerror])
    # Grain notes, below a rule, that it shortened the traceback
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith("---")]
    return "\n    ".join([text, *notes])


def _spared() -> None:
    """Keeps JAX from looking for TPUs where libtpu is there to plan with, and no TPU is."""
    from glob import glob
    from importlib.util import find_spec

    plugins = [name for name in ("jax_cuda12_plugin", "jax_cuda13_plugin") if find_spec(name)]
    gpus = plugins and glob("/dev/nvidia[0-9]*") + glob("/dev/dxg")
    chips = glob("/dev/accel*") + glob("/dev/vfio/[0-9]*")
    if find_spec("libtpu") and not chips and not gpus:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def main() -> None:
    """Runs the command line of this process."""
    _spared()
    warnings.formatwarning = lambda message, *about, **more: f"warning: {message}\n"
    sys.exit(run(sys.argv[1:]))

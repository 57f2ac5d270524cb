"""`fusekit compare`: does fusing pay, and how?"""

import math
from pathlib import Path
from typing import Annotated

import typer

from fusekit.cli.options import Config, Quiet, Runs, Sets, UsageError

BUDGETS = ("parameters", "flops", "none")


def command(
    config: Config,
    fusion: Annotated[
        str,
        typer.Option(
            metavar="A,B,C", help="strategies: files A.yaml next to CONFIG, or types of fusion"
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="models of each")] = 5,
    budget: Annotated[
        str, typer.Option(metavar="|".join(BUDGETS), help="what is matched to the baseline")
    ] = "parameters",
    knob: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]PATH",
            help="what is turned to match; default encoders.*.width; may be repeated",
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z", help="learning rates; default 1/3, 1, 3 times CONFIG's"),
    ] = None,
    tune_seeds: Annotated[int, typer.Option(min=1, metavar="N", help="to choose a rate by")] = 1,
    control_seeds: Annotated[
        int, typer.Option(min=0, metavar="N", help="to train on shuffled targets")
    ] = 1,
    baseline: Annotated[str, typer.Option(metavar="NAME", help="a strategy")] = "concat",
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="default train.select, or the first")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="test rows of equal value are resampled together; default each by itself",
        ),
    ] = None,
    sets: Sets = None,
    name: Annotated[str | None, typer.Option(help="of the folder; default compare")] = None,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
) -> None:
    """Compare fusion strategies: does fusing pay?

    With each other, with concat, and with each modality alone; over seeds, at one budget.
    """
    if budget not in BUDGETS:
        raise UsageError(f"--budget is one of {', '.join(BUDGETS)}, not {budget}")
    names = [one.strip() for one in fusion.split(",") if one.strip()]
    if not names:
        raise UsageError("--fusion names no strategy")
    grid, knobs = _rates(rates), _knobs(knob or [])
    from rich.console import Console

    from fusekit.study import compare, strategies
    from fusekit.study.table import printed

    found = compare(
        strategies(config, [baseline, *names], tuple(sets or ())),
        baseline=baseline,
        seeds=seeds,
        budget=budget,  # pyright: ignore[reportArgumentType] - checked above
        knobs=knobs,
        rates=grid,
        tune_seeds=tune_seeds,
        control_seeds=control_seeds,
        metric=metric,
        group=group,
        root=runs,
        name=name,
        progress=not quiet,
    )
    console = Console()
    printed(found, console if console.is_terminal else Console(width=WIDE))
    typer.echo(f"took {found.seconds:.0f} s; {found.folder}")


WIDE = 132


def _rates(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise UsageError(f"--rates is a list of learning rates, such as 3e-4,1e-3, not {text}")
    return rates


def _knobs(given: list[str]) -> dict[str, list[str]]:
    """By strategy; `*` for the others."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, colon, path = text.rpartition(":")
        found.setdefault(name if colon else "*", []).append(path)
    return found

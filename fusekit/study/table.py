"""A comparison as tables: for a terminal, and as Markdown."""

from collections.abc import Sequence
from typing import Any

from fusekit.report.numbers import short
from fusekit.study.comparison import Comparison, Difference, Entry, Margin
from fusekit.study.statistics import Interval

Rows = list[list[str]]


def scores_table(found: Comparison) -> tuple[list[str], Rows]:
    """Heads and rows: scores, and the differences that tell whether fusing paid."""
    single = found.best_single
    level = f"{found.confidence:.0%}"
    heads = ["strategy", f"{found.metric}, {level} interval"]
    if single is not None:
        heads += [f"less {single.name}: over seeds", "over samples"]
    baseline = found.of("baseline")[0].name
    heads += [f"less {baseline}: over seeds", "over samples"]
    rows = []
    for entry in found.entries:
        row = [_name(entry), _score(entry.score)]
        if single is not None:
            row += _difference(entry.vs_single)
        rows.append([*row, *_difference(entry.vs_baseline)])
    return heads, rows


def controls_table(found: Comparison) -> tuple[list[str], Rows]:
    """Heads and rows: what learns nothing, and whether it is beaten."""
    heads = ["strategy", "constant", "less constant", "shuffled", "less shuffled"]
    rows = [
        [_name(entry), *_margin(entry.vs_constant), *_margin(entry.vs_control)]
        for entry in found.entries
    ]
    return heads, rows


def costs_table(found: Comparison) -> tuple[list[str], Rows]:
    """Heads and rows: what each model costs, and how it was trained."""
    baseline = found.of("baseline")[0]
    heads = ["strategy", "parameters", "FLOPs", "step", "learning rate", "knob"]
    rows = []
    for entry in found.entries:
        knob = ", ".join(f"{path} {value}" for path, value in entry.knob.items())
        rows.append(
            [
                _name(entry),
                f"{short(entry.parameters)} ({entry.parameters / baseline.parameters - 1:+.0%})",
                f"{short(entry.flops)} ({entry.flops / baseline.flops - 1:+.0%})",
                f"{entry.step_seconds * 1000:.3g} ms",
                f"{entry.rate:.2g}",
                knob or "as declared",
            ]
        )
    return heads, rows


def remarks(found: Comparison) -> list[str]:
    """What stands below the tables."""
    rows = ", ".join(f"{count} to {split}" for split, count in found.rows.items())
    count = len(found.entries[0].scores)
    seeds = f"{count} seed{'s' if count != 1 else ''}"
    lines = [f"{seeds}; rows: {rows}; {found.better} {found.metric} is better."]
    lines.append(_controls(found))
    single = found.best_single
    if single is not None:
        paying = found.paying()
        names = ", ".join(entry.name for entry in paying)
        lines.append(
            f"Better than {single.name}, the best single modality on the test rows, with zero"
            f" outside both intervals (*): {names or 'none'}."
        )
    lines.append(
        "Learning rates and states were chosen on validation rows. Intervals are of each row by"
        f" itself: Student's t over seeds, {found.resamples} bootstrap draws over {_units(found)}."
    )
    lines.append(_budget(found))
    for entry in found.entries:
        notes = list(entry.notes)
        if entry.answered < 1:
            notes.append(f"it answers {entry.answered:.1%} of the test rows")
        lines += [f"{entry.name}: {note}." for note in notes]
    return lines


def _controls(found: Comparison) -> str:
    """Whether what learns nothing is beaten, and by whom not."""
    words = {"constant": "its constant predictor", "shuffled": "its shuffled-label control"}
    unbeaten = found.unbeaten()
    if found.constant is not None:
        words["constant"] += f" ({found.constant:.3f})"
    if not unbeaten:
        return f"Nothing that learns nothing was scored: {found.metric} has no constant predictor."
    lines = [
        f"{', '.join(names)}: not better than {words[kind]}"
        for kind, names in unbeaten.items()
        if names
    ]
    if not lines:
        what = " and ".join(words[kind] for kind in unbeaten)
        lines = [f"Every model beats {what}"]
    end = ", with zero outside the interval over samples (*)."
    if "shuffled" not in unbeaten:
        end += " None was trained on shuffled labels."
    return "; ".join(lines) + end


def _units(found: Comparison) -> str:
    if found.unit == "row":
        return "test rows"
    return f"{found.units} groups of test rows, those of equal {found.unit}"


def _budget(found: Comparison) -> str:
    baseline = found.of("baseline")[0]
    if found.budget == "none":
        return "Nothing was matched: strategies are as declared."
    attribute = "flops" if found.budget == "flops" else "parameters"
    due = getattr(baseline, attribute)
    off = [
        entry.name
        for entry in found.entries
        if abs(getattr(entry, attribute) / due - 1) > found.tolerance
    ]
    what = f"{found.budget} are matched to {baseline.name} within {found.tolerance:.0%}"
    return f"{what.capitalize()}{', except ' + ', '.join(off) if off else ''}; nothing else is."


def markdown(found: Comparison) -> str:
    """The tables and the remarks."""
    parts = [f"# {found.title}", ""]
    for heads, rows in _tables(found):
        parts += [_line(heads), _line(["---"] * len(heads)), *map(_line, rows), ""]
    parts += [f"- {remark}" for remark in remarks(found)]
    return "\n".join([*parts, f"- It took {found.seconds:.0f} s.", ""])


def printed(found: Comparison, console: Any) -> None:
    """The tables and the remarks on a rich console."""
    from rich.table import Table

    for position, (heads, rows) in enumerate(_tables(found)):
        table = Table(title=None if position else found.title)
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)
    for remark in remarks(found):
        console.print(remark, markup=False, highlight=False)


def _tables(found: Comparison) -> list[tuple[list[str], Rows]]:
    return [scores_table(found), controls_table(found), costs_table(found)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _name(entry: Entry) -> str:
    return f"{entry.name} alone" if entry.role == "single" else entry.name


def _score(score: Interval) -> str:
    if score.mean != score.mean:
        return "failed"
    if score.half != score.half:
        return f"{score.mean:.3f}"
    return f"{score.mean:.3f} ± {score.half:.3f}"


def _difference(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["–", "–"]
    mark = "*" if difference.clear else ""
    return [
        f"{difference.seeds.mean:+.3f}{mark} {_bounds(difference.seeds)}",
        _bounds(difference.samples),
    ]


def _margin(margin: Margin | None) -> list[str]:
    """The score of what learns nothing, and the difference, marked where it is beaten."""
    if margin is None:
        return ["–", "–"]
    mark = "*" if margin.beaten else ""
    difference = f"{margin.samples.mean:+.3f}{mark} {_bounds(margin.samples)}"
    return [f"{margin.score:.3f}", difference]


def _bounds(interval: Interval) -> str:
    if interval.low != interval.low:
        return "–"
    return f"[{interval.low:+.3f}, {interval.high:+.3f}]"

"""`report.html`: one file that says what was run and what came of it."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from fusekit.errors import FusekitError
from fusekit.train.curve import curves
from fusekit.train.files import write

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse}td,th{padding:.15rem 1rem .15rem 0;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f6f4;padding:.8rem;overflow:auto}
svg{width:100%;font:11px system-ui,sans-serif}svg .grid{stroke:#e4e4e0}
figure{margin:1rem 0}
"""


def report(folder: str | PathLike[str], *, pictures: Sequence[tuple[str, str]] = ()) -> Path:
    """Writes `report.html` from what else the run folder holds.

    Args:
      folder: the run folder.
      pictures: (caption, SVG or HTML) to show, such as a drawing of the graph. They are put in as
        they are, so whoever makes them escapes what is in them.

    Raises:
      FusekitError: there is no config in the folder.
    """
    folder = Path(folder)
    config = folder / "config.yaml"
    if not config.is_file():
        raise FusekitError(f"{folder} is no run folder: it has no config.yaml")
    summary = _json(folder / "summary.json")
    lines = read_metrics(folder)
    parts = [
        f"<h1>{escape(str(summary.get('name') or folder.parent.name))}</h1>",
        f"<p>{escape(_headline(summary))}</p>" if summary else "",
        *(_results(summary) if summary else []),
        *_curves(lines),
        *[
            f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, picture in pictures
        ],
        *_counts(summary.get("parameters") or {}),
        *_kernels(summary.get("kernels") or ()),
        _section("Config", f"<pre>{escape(config.read_text(encoding='utf-8'))}</pre>"),
        _section("Environment", _facts(_json(folder / "environment.json"))),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(folder.parent.name)} {escape(folder.name)}</title>"
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    path = folder / "report.html"
    write(path, page)
    return path


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that was cut short is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def _headline(summary: Mapping[str, Any]) -> str:
    return f"{summary['status']} after {summary['steps']} steps and {summary['seconds']:.0f} s"


def _results(summary: Mapping[str, Any]) -> list[str]:
    """One table a split: names down, replicas across."""
    found = []
    for split, values in summary["metrics"].items():
        columns = values if isinstance(values, list) else [values]
        heads = "".join(f"<th>replica {k}</th>" for k in range(len(columns)))
        rows = "".join(
            f"<tr><td>{escape(name)}</td>{''.join(_number(c.get(name)) for c in columns)}</tr>"
            for name in (columns[0] if columns else ())
        )
        head = f"<tr><th></th>{heads}</tr>" if len(columns) > 1 else ""
        found.append(_section(f"Results: {split}", f"<table>{head}{rows}</table>"))
    return found


def _number(value: Any) -> str:
    return f'<td class="n">{"not finite" if value is None else f"{value:.6g}"}</td>'


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The loss of every split in one picture, then one picture a metric."""
    names = dict.fromkeys(name for line in lines for name in line["values"])
    found = []
    for name in ["loss", *(n for n in names if n != "loss" and not n.startswith("losses."))]:
        series: dict[str, list[tuple[float, float]]] = {}
        for line in lines:
            value = line["values"].get(name)
            for k, one in enumerate(value if isinstance(value, list) else [value]):
                if one is not None:
                    label = f"{line['split']} {k}" if isinstance(value, list) else line["split"]
                    series.setdefault(label, []).append((line["step"], one))
        picture = curves(series, y=name)
        if picture:
            found.append(_section(name, picture))
    return found


def _counts(parameters: Mapping[str, int]) -> list[str]:
    if not parameters:
        return []
    rows = "".join(
        f'<tr><td>{escape(node)}</td><td class="n">{count:,}</td></tr>'
        for node, count in {**parameters, "all": sum(parameters.values())}.items()
    )
    return [_section("Parameters", f"<table>{rows}</table>")]


def _kernels(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which backend ran each operation of the step, and why."""
    heads = ("component", "operation", "backend", "why")
    lines = dict.fromkeys(tuple(str(one[head]) for head in heads) for one in choices)
    if not lines:
        return []
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines
    )
    head = "".join(f"<th>{head}</th>" for head in heads)
    return [_section("Backends", f"<table><tr>{head}</tr>{rows}</table>")]


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_said(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>" if rows else ""


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)

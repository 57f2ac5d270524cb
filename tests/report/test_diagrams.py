"""Diagrams are well-formed, and nothing in them overlaps."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fusekit.config import load
from fusekit.graph import Graph, resolve
from fusekit.report import mermaid, svg
from fusekit.report.layered_layout import Link, place
from fusekit.report.ranks import columns
from fusekit.report.summary import Edge, Entry, Summary, Touch, summarise

SVG = "{http://www.w3.org/2000/svg}"


def test_columns_run_from_modalities_to_losses(crossed: Graph) -> None:
    ranks = columns(summarise(crossed))
    assert ranks["batch.image"] == ranks["batch.label"] == 0
    assert ranks["image"] == ranks["text"] == 1
    assert ranks["shared"] == 2
    assert ranks["shared"] < ranks["early"] < ranks["trunk"] < ranks["joint"] < ranks["class"]
    assert ranks["class"] == ranks["image_z"]
    assert ranks["losses.align"] == ranks["losses.class"] == max(ranks.values())


def test_stacks_that_read_each_other_have_columns_too() -> None:
    one = Entry("encoders", "a", "a", "t", reads=(Edge("b", "input", "b@0", (0,)),), depth=2)
    two = Entry("encoders", "b", "b", "t", reads=(Edge("a", "input", "a@0", (0,)),), depth=2)
    touch = Touch("o", "a", (1,))
    operator = Entry("fusion", "o", "o", "t", reads=(Edge("b", "x", "b"),), touches=(touch,))
    summary = Summary("s", (one, two, operator))
    assert set(columns(summary)) == {"a", "b", "o"}
    ElementTree.fromstring(svg.render(summary))


def test_boxes_of_a_column_do_not_overlap_and_lines_are_uncrossed() -> None:
    ranks = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2}
    heights = dict.fromkeys(ranks, 40.0)
    links = [Link("a", "d"), Link("b", "c"), Link("c", "e"), Link("a", "e")]
    drawing = place(ranks, heights, links)
    for column in drawing.columns:
        for upper, lower in pairwise(sorted(column, key=drawing.top.__getitem__)):
            assert drawing.top[lower] >= drawing.top[upper] + heights[upper]
    a_first = drawing.top["a"] < drawing.top["b"]
    assert a_first == (drawing.top["d"] < drawing.top["c"])
    assert len(drawing.ends[Link("a", "e")]) == 3
    assert min(drawing.top.values()) >= 0


@pytest.fixture(scope="module")
def picture(crossed: Graph) -> ElementTree.Element:
    return ElementTree.fromstring(svg.render(summarise(crossed, flops=True)))


def test_svg_stays_on_the_page(picture: ElementTree.Element) -> None:
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for rect in picture.iter(f"{SVG}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert 0 <= x <= x + float(rect.attrib["width"]) <= width
        assert 0 <= y <= y + float(rect.attrib["height"]) <= height
    for path in picture.iter(f"{SVG}path"):
        numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", path.attrib["d"])]
        assert all(0 <= n <= max(width, height) for n in numbers)


def test_svg_boxes_do_not_overlap(picture: ElementTree.Element) -> None:
    boxes = [
        tuple(float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        for rect in picture.iter(f"{SVG}rect")
        if rect.get("rx") == "6"
    ]
    assert len(boxes) == 14
    for n, (x, y, w, h) in enumerate(boxes):
        for ox, oy, ow, oh in boxes[:n]:
            assert x + w <= ox or ox + ow <= x or y + h <= oy or oy + oh <= y


def test_svg_ticks_show_where_operators_act(picture: ElementTree.Element) -> None:
    fills = [rect.attrib["fill"] for rect in picture.iter(f"{SVG}rect")]
    assert fills.count(svg.COLOURS[0]) == 3 + 3 + 1  # image@1.., text@.., and the operator's stripe
    assert fills.count(svg.PLAIN) == 1 + 0 + 1  # image@0 and the trunk's only layer
    words = [t.text for t in picture.iter(f"{SVG}text")]
    assert {"@1..3", "@0..2", "@0", ".readout", "frozen", "partly frozen", "4 layers"} <= {*words}


def test_svg_escapes_what_a_config_says() -> None:
    entry = Entry("modalities", "a<b>&", "batch.a", 'x"y')
    root = ElementTree.fromstring(svg.render(Summary("<&>", (entry,))))
    assert "a<b>&" in [t.text for t in root.iter(f"{SVG}text")]


def test_mermaid(crossed: Graph) -> None:
    lines = mermaid.render(summarise(crossed)).splitlines()
    assert lines[0] == "flowchart LR"
    names = {
        m.group(2): m.group(1)
        for line in lines
        if (m := re.match(r"    (n\d+).*<b>(\w+)</b><br/>(?:vit|concat|bottleneck)", line))
    }
    assert f'  {names["image"]} <-->|"@1..3"| {names["shared"]}' in lines
    assert f'  {names["image"]} -->|"@0"| {names["early"]}' in lines
    assert f"  class {names['image']} frozen" in lines
    assert sum(line == "  end" for line in lines) == 5


def test_mermaid_escapes_what_a_config_says() -> None:
    text = mermaid.render(Summary("s", (Entry("modalities", 'a"<|', "batch.a", "t"),)))
    assert "<b>a#34;#60;#124;</b>" in text


DIGITS = Path(__file__).parents[2] / "configs"


def drawn(config: Path) -> ElementTree.Element:
    summary = summarise(resolve(load(config).experiment), flops=True)
    return ElementTree.fromstring(svg.render(summary))


def points(path: str) -> Iterator[tuple[float, float]]:
    """Points along `M`, `H` and `C`, close to each other."""
    x = y = 0.0
    for kind, rest in re.findall(r"([MHC])([^MHC]*)", path):
        numbers = [float(n) for n in rest.split()]
        if kind == "M":
            x, y = numbers
            continue
        if kind == "H":
            numbers = [x, y, numbers[0], y, numbers[0], y]
        (ax, ay), (bx, by), (cx, cy) = zip(numbers[::2], numbers[1::2], strict=True)
        for t in np.linspace(0, 1, 80):
            u = 1 - t
            yield (
                u**3 * x + 3 * u * u * t * ax + 3 * u * t * t * bx + t**3 * cx,
                u**3 * y + 3 * u * u * t * ay + 3 * u * t * t * by + t**3 * cy,
            )
        x, y = cx, cy


@pytest.mark.parametrize(
    "config", ["base/av_digits", "examples/digits/early", "examples/digits/bottleneck"]
)
def test_no_line_runs_through_a_label(config: str) -> None:
    root = drawn(DIGITS / f"{config}.yaml")
    lines = [p.attrib["d"] for p in root.iter(f"{SVG}path") if p.get("fill") == "none"]
    labels = [t for t in root.iter(f"{SVG}text") if t.get("class") == "e"]
    assert len(lines) >= 7
    assert len(labels) >= 2
    for label in labels:
        left, base = float(label.attrib["x"]), float(label.attrib["y"])
        right, top = left + len(label.text or "") * svg.TINY, base - 8
        for line in lines:
            assert not any(left < x < right and top < y < base + 2 for x, y in points(line))


def test_the_demo_fits_a_page_of_text() -> None:
    """A README shows pictures at 900 to 1000 pixels; what is wider shrinks, text included."""
    root = drawn(DIGITS / "base/av_digits.yaml")
    assert float(root.attrib["width"]) <= 1000
    assert not [t.text for t in root.iter(f"{SVG}text") if "…" in (t.text or "")]


def test_only_layers_that_are_built_are_drawn() -> None:
    """Early fusion reads the start of two stacks of two layers."""
    root = drawn(DIGITS / "examples/digits/early.yaml")
    words = [t.text for t in root.iter(f"{SVG}text")]
    assert words.count("0 of 2 layers") == 2
    assert svg.PLAIN not in [rect.get("fill") for rect in root.iter(f"{SVG}rect")]
    boxes = [r for r in root.iter(f"{SVG}rect") if r.get("rx") == "6"]
    heights = {float(r.attrib["height"]) for r in boxes if r.get("stroke") == svg.TINT["encoders"]}
    assert heights == {2 * svg.PAD + 2 * svg.LINE - 4 + svg.STRIP + 6}

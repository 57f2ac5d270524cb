import math
import xml.etree.ElementTree as Xml

import pytest

from fusekit.train.curve import curves, ticks


def test_ticks_are_round_and_within():
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3.0, 47.0) == [10.0, 20.0, 30.0, 40.0]
    assert ticks(1.2e-5, 3.3e-5) == pytest.approx([1.5e-5, 2e-5, 2.5e-5, 3e-5])


def test_a_line_runs_from_corner_to_corner():
    picture = Xml.fromstring(curves({"a<b": [(0, 1.0), (10, 3.0)]}, y="loss"))
    (line,) = picture.findall("{*}polyline")
    assert line.get("points") == "64.0,204.0 628.0,12.0"
    assert any(text.text == "a<b" for text in picture.iter())


def test_holes_and_single_points():
    assert curves({"a": [(0, math.nan)]}, y="loss") == ""
    assert curves({}, y="loss") == ""
    picture = Xml.fromstring(curves({"a": [(0, math.inf), (4, 2.0)]}, y="loss"))
    assert len(picture.findall("{*}circle")) == 1


def test_long_curves_are_thinned_but_keep_their_ends():
    picture = Xml.fromstring(curves({"a": [(k, k) for k in range(10_001)]}, y="loss"))
    points = picture.find("{*}polyline").get("points").split()
    assert len(points) <= 400
    assert points[0] == "64.0,204.0"
    assert points[-1] == "628.0,12.0"

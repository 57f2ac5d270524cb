"""`adapter` after and beside sublayers, for all tokens and by label."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Span, sequence
from fusekit_modules.fusion.adapter import AdapterSpec
from tests.modules.fusion.inside import hold
from tests.reference import inside
from tests.reference.transformer import gelu

SPANS = (Span("a", 2), Span("b", 1))


def adapted(p, name, x):
    return gelu(x @ p[f"{name}.down"] + p[f"{name}.bias"]) @ p[f"{name}.up"]


def test_after_the_sublayers():
    def form(p, own, x, xs):
        def then(name, x):
            number = {"attention": 1, "mlp": 0}[name]
            return x + adapted(p, f"layers.0.adapters.0.{number}.0", x)

        return inside.sublayers(p, own, x, then=then)

    spec = AdapterSpec(hidden=3, sublayers=("feed_forward", "attention"))
    hold(spec, [sequence(3, 4, label="a", padded=True)], inside.edited(form, [3], 4))


def test_beside_a_sublayer_by_label():
    def form(p, own, x, xs):
        def feed(n, y):
            y = np.array(y)
            for number, rows in enumerate((slice(2, 3), slice(0, 2))):
                y[rows] += adapted(p, f"layers.0.adapters.0.0.{number}", n[rows])
            return y

        return inside.sublayers(p, own, x, feed=feed)

    spec = AdapterSpec(hidden=3, act="beside", labels=("b", "a"))
    hold(spec, [sequence(3, 4, spans=SPANS)], inside.edited(form, [3], 4))


def test_labels_that_nobody_has_are_refused():
    with pytest.raises(WiringError, match="no token has this label"):
        AdapterSpec(labels=("c",)).infer_edit((sequence(3, 4, spans=SPANS),), {})

"""Early fusion against a float64 reference that has only the tokens that are present."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.early import EarlySpec
from tests.modules.fusion.harness import check, filled
from tests.reference.transformer import tower

LENGTHS = (3, 2)


def early(p, depth, xs, project):
    """The readout token, then the tokens of what is present; zeros stand for the others."""
    tokens = {
        k: x @ p[f"project.{k}.kernel"] + p[f"project.{k}.bias"] if project else x
        for k, x in xs.items()
    }
    mixed = tower(p, "tower", depth, np.concatenate([p["readout.tokens"], *tokens.values()]))
    full, at = [], 1
    for k, length in enumerate(LENGTHS):
        size = len(xs.get(k, ()))
        full.append(filled(mixed[at : at + size], length, mixed.shape[1]))
        at += size
    return {"out": mixed[0], "tokens": np.concatenate(full)}


def test_the_trunk_reads_all_tokens():
    widths = [sequence(n, 4, label=f"m{k}", padded=k == 0) for k, n in enumerate(LENGTHS)]
    spec = EarlySpec(depth=2, heads=2, hidden=3)
    check(spec, widths, lambda p, xs: early(p, 2, xs, False), ports=("out", "tokens"))


def test_inputs_of_unequal_width_are_mapped():
    widths = [sequence(3, 3, label="m0"), sequence(2, 5, label="m1")]
    spec = EarlySpec(depth=1, heads=2, width=4, hidden=3)
    check(spec, widths, lambda p, xs: early(p, 1, xs, True), ports=("out", "tokens"))


def test_it_refuses():
    with pytest.raises(WiringError, match="differ in embed"):
        EarlySpec().infer({"a": sequence(2, 4), "b": sequence(2, 8)})
    with pytest.raises(WiringError, match="heads divide"):
        EarlySpec(heads=4).infer({"a": sequence(2, 6)})
    with pytest.raises(WiringError) as error:
        EarlySpec().infer({"a": sequence(2, 4), "b": vector(4)})
    assert error.value.problem.path == ("inputs", "b")

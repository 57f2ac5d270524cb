"""Layers hold no weights for sublayers that operators always replace."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.config.stages import staged
from fusekit.model import FusionModel

LOSS = {"type": "cross_entropy", "target": "batch.y"}
EXPERTS = {"type": "experts", "into": "trunk@1../2", "experts": 2, "top": 1, "hidden": 4}
TOKENS = {"type": "prefix_tokens", "into": "trunk@0", "tokens": 1}


def declared(experts=EXPERTS, fusion=None, parts=None, stages=None):
    stack = {"type": "transformer", "depth": 4, "width": 4, "heads": 2, "mlp_ratio": 1}
    losses = {"y": {**LOSS, "prediction": "y"}}
    for part in parts or {}:
        losses[part] = {**LOSS, "prediction": f"{part}.y"}
    return fusekit.experiment(
        modalities={
            "a": {"type": "features", "width": 4, "length": 3},
            "y": {"type": "label", "classes": 2},
        },
        encoders={"trunk": {**stack, "input": "batch.a"}},
        fusion={**(fusion or {}), "experts": experts},
        heads={"y": {"type": "classifier", "input": "trunk.mean", "classes": 2}},
        losses=losses,
        parts=parts or {},
        data={"made": {"type": "synthetic", "sizes": {"train": 8}}},
        train={"batch": 4, "steps": 1},
        stages=stages or {},
    )


def dense(experiment):
    """The layers that have a feed-forward network of their own."""
    units = FusionModel(fusekit.resolve(experiment)).templates.items()
    return {u.layer for u, t in units if u.node == "trunk" and "mlp" in t.params}


BY_LABEL = {"type": "modality_experts", "into": "trunk@1../2", "hidden": 4}
CASES = {
    "experts": (declared(), {0, 2}),
    "of some labels": (declared({**EXPERTS, "labels": ["a"]}, {"more": TOKENS}), {0, 1, 2, 3}),
    "of all labels": (declared({**EXPERTS, "labels": ["a"]}), {0, 2}),
    "by label": (declared(BY_LABEL), {0, 2}),
    "by label beside tokens": (
        declared(BY_LABEL, {"more": {**TOKENS, "into": "trunk@1"}}),
        {0, 1, 2},
    ),
    "kept": (declared({**EXPERTS, "keep": True}), {0, 1, 2, 3}),
    "in a part not": (
        declared(parts={"p": {"of": ["y"], "without": ["experts"]}}),
        {0, 1, 2, 3},
    ),
    "in a part too": (
        declared(parts={"p": {"of": ["y"], "weights": "start"}}),
        {0, 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_some_run_of_a_layer_needs_is_held(case):
    experiment, due = CASES[case]
    assert dense(experiment) == due


def test_what_a_stage_leaves_away_keeps_what_it_replaces_in_all():
    experiment = declared(stages={"dense": {"without": ["experts"]}, "sparse": {}})
    graphs = [experiment, *staged(experiment).values()]
    assert [dense(one) for one in graphs] == [{0, 1, 2, 3}] * 3


def test_what_is_not_held_changed_nothing():
    found = []
    for keep in (False, True):
        program = fusekit.compile(declared({**EXPERTS, "keep": keep}))
        state = program.init(0)
        values = np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)
        params = program.parameters(state)
        found.append((program.predict(state, {"a": values})["y"].values, params))
    (one, fewer), (other, more) = found
    np.testing.assert_array_equal(one, other)
    for path, array in fewer.items():
        np.testing.assert_array_equal(jax.device_get(array), more[path])
    gone = set(more) - set(fewer)
    assert gone
    assert all(".mlp." in path for path in gone)

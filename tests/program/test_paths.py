"""Canonical paths: one state, however a program holds it."""

from pathlib import Path

import numpy as np
import pytest

import fusekit
from fusekit.graph.packing import canonical_names
from fusekit.layout import Layout
from fusekit.program import Program
from tests.support.training import arrays

GOLDEN = Path(__file__).parent / "golden" / "bottleneck_paths.txt"
CUBE = {"data": 2, "fsdp": 2, "tensor": 2}
WAYS = {
    "unroll": {"layers": "unroll"},
    "scan": {"layers": "scan"},
    "mesh": {"layers": "scan", "mesh": CUBE},
    "other mesh": {"layers": "unroll", "mesh": {"fsdp": 4, "tensor": 2}},
}


def resolved(extra=None, heads=None):
    """An image and a text that exchange from layer 1 on, through a bottleneck."""
    stack = {"depth": 3, "width": 8, "heads": 2, "mlp_ratio": 1, "readout": 1}
    return fusekit.resolve(
        fusekit.experiment(
            modalities={
                "image": {"type": "image", "shape": [4, 4, 1]},
                "text": {"type": "tokens", "vocab": 5, "length": 3, "optional": True},
                "label": {"type": "label", "classes": 3},
            },
            encoders={
                "image": {"type": "vit", "patch": [2, 2], **stack},
                "text": {"type": "transformer", **stack},
            },
            fusion={
                "meet": {"type": "bottleneck", "into": ["image@1..", "text@1.."], "tokens": 2},
                **(extra or {}),
            },
            heads={
                "y": {"type": "classifier", "input": "image.readout", "classes": 3},
                "z": {"type": "classifier", "input": "text.readout", "classes": 3},
                **(heads or {}),
            },
            losses={
                name: {"type": "cross_entropy", "prediction": name, "target": "batch.label"}
                for name in ("y", "z", *(heads or {}))
            },
            train={"optimizer": {"type": "adam"}, "steps": 10},
        )
    )


GRAPH = resolved()


def program(way):
    options = dict(WAYS[way])
    mesh = options.pop("mesh", None)
    return Program(GRAPH, layout=Layout.of(mesh) if mesh else None, **options)


@pytest.fixture(scope="module")
def programs():
    return {way: program(way) for way in WAYS}


@pytest.fixture(scope="module")
def initial(programs):
    return {way: arrays(made.flat(made.init(0))) for way, made in programs.items()}


def filled(flat):
    """A state with other numbers everywhere, as training would leave it."""
    r = np.random.default_rng(0)
    return {
        name: r.normal(size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in flat.items()
    }


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.slow
def test_every_way_starts_from_the_same_numbers(initial):
    plain = initial["unroll"]
    for way, flat in initial.items():
        assert flat.keys() == plain.keys(), way
        for name, value in flat.items():
            np.testing.assert_allclose(value, plain[name], atol=1e-7, err_msg=f"{way}: {name}")


@pytest.mark.parametrize("way", WAYS)
def test_any_state_is_restored_in_any_way(way, programs, initial):
    flat = filled(initial["unroll"])
    restored = programs[way].restored(flat)
    assert_equal(arrays(programs[way].flat(restored)), flat)


def test_a_path_that_is_missing_is_named(programs, initial):
    flat = dict(initial["unroll"])
    del flat["params.image.layers.1.mlp.up.kernel"]
    with pytest.raises(KeyError, match=r"params\.image\.layers\.1\.mlp\.up\.kernel"):
        programs["scan"].restored(flat)


def test_a_replica_is_an_ordinary_checkpoint(programs):
    many = Program(GRAPH, replicas=2, mode="vmap", layers="scan")
    state = many.init(0)
    for index in (0, 1):
        flat = arrays(many.flat(many.replica(state, index)))
        assert_equal(arrays(programs["unroll"].flat(programs["unroll"].restored(flat))), flat)
        alone = arrays(programs["unroll"].flat(programs["unroll"].init(index)))
        for name, value in flat.items():
            np.testing.assert_allclose(value, alone[name], atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    "added",
    [
        pytest.param(
            {"heads": {"tap": {"type": "classifier", "input": "text@0.mean", "classes": 3}}},
            id="tap",
        ),
        pytest.param(
            {"extra": {"more": {"type": "adapter", "into": "text@0", "hidden": 4}}},
            id="operator",
        ),
    ],
)
def test_what_is_added_elsewhere_moves_no_parameter(added, initial):
    other = Program(resolved(**added), layers="scan")
    found = {n.removeprefix("params."): v for n, v in other.flat(other.init(0)).items()}
    mine = {n: v for n, v in initial["unroll"].items() if n.startswith("params.")}
    for name, value in mine.items():
        np.testing.assert_allclose(
            found[name.removeprefix("params.")], value, atol=1e-7, err_msg=name
        )
    assert len(found) > len(mine)


def test_the_paths_are_those_of_before():
    """Drift shows in review: checkpoints and `trainable` stand on these names. (The optimiser's
    own names are those of optax.)"""
    made = Program(GRAPH, layers="scan")
    names = canonical_names(made.states.abstract, made.model.groups)
    names = [name for name in names if not name.startswith("optimizer.")]
    assert sorted(names) == GOLDEN.read_text().splitlines()

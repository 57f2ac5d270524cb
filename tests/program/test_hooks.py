"""Every hook of a layer, on real transformers: the same however layers run, nothing where asked."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusekit
from fusekit.graph.node import Key
from fusekit.graph.schedule import Scan
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Stream
from tests.support.hooks import PLACES
from tests.support.training import arrays, assert_close, trained

STACK = {"type": "transformer", "depth": 2, "width": 8, "heads": 2, "mlp_ratio": 2}
READING = {"keys_values": "side@input", "key_value": "batch.a"}
LOCKSTEP = ("tokens",)


def declared(fusion, *, remat="none"):
    """A trunk over two modalities side by side, and a stack over one of them."""
    stack = {**STACK, "remat": remat}
    return fusekit.experiment(
        modalities={
            "a": {"type": "features", "length": 3, "width": 8, "optional": True},
            "b": {"type": "features", "length": 2, "width": 8, "optional": True},
            "label": {"type": "label", "classes": 3},
        },
        encoders={
            "trunk": {**stack, "input": "joined", "dropout": 0.1},
            "side": {**stack, "input": "batch.a", "readout": 1},
        },
        fusion={
            "joined": {"type": "concat", "axis": "sequence", "inputs": ["batch.a", "batch.b"]},
            **fusion,
        },
        heads={
            "y": {"type": "classifier", "input": "trunk.mean", "classes": 3},
            "z": {"type": "classifier", "input": "side.readout", "classes": 3},
        },
        losses={
            name: {"type": "cross_entropy", "prediction": name, "target": "batch.label"}
            for name in ("y", "z")
        },
        train={"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 0.1, "steps": 10},
    )


def batch(seed, size=8):
    r = np.random.default_rng(seed)
    found = {"label": Stream(r.integers(0, 3, size).astype("int32"))}
    for name, length in (("a", 3), ("b", 2)):
        mask = np.arange(length) < r.integers(1, length + 1, (size, 1))
        presence = r.random(size) < 0.7
        values = r.normal(size=(size, length, 8)).astype("float32")
        values[~(mask & presence[:, None])] = np.nan
        found[name] = Stream(values, mask, presence)
    return found


def everything(**changes):
    """All hooks at once, two places each."""
    fusion = {}
    for name in PLACES:
        into = ["trunk@..", "side@.."] if name in LOCKSTEP else ["trunk@.."]
        inputs = {"inputs": [READING[name]]} if name in READING else {}
        fusion[name] = {"type": f"hook_{name}", "into": into, **inputs}
    return fusekit.resolve(declared(fusion, **changes))


BATCHES = [batch(0), batch(1)]


@pytest.fixture(scope="module")
def start():
    """The first state, by canonical path."""
    program = Program(everything(), layers="unroll")
    return arrays(program.flat(program.init(0)))


@pytest.fixture(scope="module")
def unrolled(start):
    program = Program(everything(), layers="unroll")
    return trained(program, BATCHES, program.restored(start))


def test_training_moves_every_weight_of_every_place(start, unrolled):
    for name, place in PLACES.items():
        for weight in place.weights:
            for layer in (0, 1):
                path = f"params.{name}.layers.{layer}.{weight}"
                assert not np.array_equal(start[path], unrolled[0][path]), path


@pytest.mark.parametrize(
    ("layers", "remat", "mesh"),
    [
        pytest.param("unroll", "full", {}, id="recomputed"),
        pytest.param("scan", "full", {}, id="scan-recomputed"),
        pytest.param("scan", "none", {"data": 2, "fsdp": 2, "tensor": 2}, id="scan-mesh"),
    ],
)
def test_all_hooks_train_the_same_however_layers_run(layers, remat, mesh, start, unrolled):
    layout = Layout.of(mesh) if mesh else None
    program = Program(everything(remat=remat), layers=layers, layout=layout)
    assert any(isinstance(item, Scan) for item in program.model.items) == (layers == "scan")
    state, metrics = trained(program, BATCHES, program.restored(start))
    assert_close(state, unrolled[0], atol=5e-5)
    for one, other in zip(metrics, unrolled[1], strict=True):
        assert_close(one, other, atol=0, rtol=1e-4)


def test_all_hooks_train_the_same_in_a_replica(start, unrolled):
    program = Program(everything(), layers="scan", replicas=2, mode="vmap")
    one = program.restored(start)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    state, metrics = trained(program, BATCHES, state)
    assert_close(state, unrolled[0], atol=5e-5)
    for found, other in zip(metrics, unrolled[1], strict=True):
        assert_close({n: v[0] for n, v in found.items()}, other, atol=0, rtol=1e-4)


def test_a_layer_with_edits_is_recomputed():
    """Each place is one piece, of which the backward pass keeps only what enters it."""
    pieces = {}
    for remat in ("none", "full"):
        program = Program(everything(remat=remat), layers="unroll")
        state, given = program.states.abstract, program.batch(BATCHES[0])

        def gradient(params, variables, program=program, given=given):
            context = program.context("train", jax.random.key(0))
            return jax.grad(lambda p: program.loss(p, variables, given, context)[0])(params)

        jaxpr = jax.make_jaxpr(gradient)(state.params, state.variables)
        pieces[remat] = sum(e.primitive.name in ("checkpoint", "remat2") for e in jaxpr.jaxpr.eqns)
    assert pieces == {"none": 0, "full": 2}


def streams(fusion):
    """The trunk at its end, in training, in float64: rounding alone is past 1e-6 in float32."""
    program = Program(fusekit.resolve(declared(fusion)), layers="unroll")
    params, variables = program.model.init(jax.random.key(0))
    wanted = Key("out", "trunk")
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), "float64"), params)
        context = replace(program.context("train", jax.random.key(3)), dtype=jnp.float64)
        values, _ = program.model.apply(
            params, variables, program.batch(BATCHES[0]), context=context, wanted=[wanted]
        )
        return np.asarray(values[wanted].values), np.asarray(values[wanted].valid())


@pytest.fixture(scope="module")
def unedited():
    return streams({})


@pytest.mark.parametrize("name", PLACES)
def test_an_identity_edit_changes_nothing_and_any_other_does(name, unedited):
    inputs = {"inputs": [READING[name]]} if name in READING else {}
    operator = {"type": f"hook_{name}", "into": "trunk@..", **inputs}
    plain, valid = unedited
    same, _ = streams({"it": {**operator, "identity": True}})
    np.testing.assert_allclose(same[valid], plain[valid], atol=1e-12)
    other, _ = streams({"it": operator})
    assert np.isfinite(other).all()
    assert np.abs(other - plain)[valid].max() > 1e-3

"""Which parameters of real modules Muon takes for matrices, and their steps against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fusekit
from fusekit.program import Program
from fusekit_modules.fusion._routing import ExpertMlps
from fusekit_modules.layers.block import Block
from fusekit_modules.layers.conv import Conv
from fusekit_modules.layers.embed import TokenEmbed
from fusekit_modules.layers.positions import LearnedPositions
from fusekit_modules.layers.readout import Readouts
from fusekit_modules.optimizers.muon import MuonSpec

RATE, DECAY = 0.1, 0.2
SPEC = MuonSpec(rms=0.2, weight_decay=DECAY)


def parameters(module):
    """Values and axis names by path."""
    found = nnx.to_flat_state(nnx.state(module, nnx.Param))
    values = {".".join(map(str, path)): leaf[...] for path, leaf in found}
    return values, {".".join(map(str, path)): leaf.get_metadata()["axes"] for path, leaf in found}


def stepped(optimizer, params, seed=0):
    """Two steps along random gradients."""
    rng = np.random.default_rng(seed)
    state = optimizer.init(params)
    for _ in range(2):
        grads = {k: jnp.asarray(rng.normal(size=v.shape), v.dtype) for k, v in params.items()}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def plain(matrices):
    """Optax's own Muon, where `matrices` maps paths to the shape of the matrix."""
    return optax.contrib.muon(
        RATE, weight_decay=DECAY, adam_weight_decay=DECAY, consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda tree: {
            k: optax.contrib.MuonDimensionNumbers() if k in matrices else None for k in tree
        },
    )  # fmt: skip


def check(module, matrices):
    """Every parameter steps as optax would have it with the named ones flattened, or as AdamW."""
    values, axes = parameters(module)
    got = stepped(SPEC.build_by_axes(RATE, axes), values)
    flat = {k: v.reshape(matrices.get(k, v.shape)) for k, v in values.items()}
    want = stepped(plain(matrices), flat)
    assert matrices.keys() <= got.keys()
    for path, value in got.items():
        reshaped = want[path].reshape(value.shape)
        np.testing.assert_allclose(value, reshaped, rtol=1e-5, atol=1e-6, err_msg=path)


def test_kernels_of_a_block():
    block = Block(64, 4, hidden=128, rngs=nnx.Rngs(0))
    kernels = {f"attention.{name}.kernel": (64, 64) for name in ("query", "key", "value", "out")}
    check(block, {**kernels, "mlp.up.kernel": (64, 128), "mlp.down.kernel": (128, 64)})


def test_places_of_a_convolution_are_inputs():
    check(Conv(2, 5, kernel=(3, 3), rngs=nnx.Rngs(0)), {"kernel": (18, 5)})


@pytest.mark.parametrize(
    "module", [TokenEmbed(7, 4, rngs=nnx.Rngs(0)), LearnedPositions(3, 4, rngs=nnx.Rngs(0)),
               Readouts(2, 4, rngs=nnx.Rngs(0))]
)  # fmt: skip
def test_tables_and_learned_tokens_go_to_adamw(module):
    check(module, {})


@pytest.mark.slow
def test_each_expert_is_a_matrix():
    values, axes = parameters(ExpertMlps(3, 4, 6, dispatch="dense", rngs=nnx.Rngs(0)))
    optimizer = SPEC.build_by_axes(RATE, axes)
    rng = np.random.default_rng(1)
    grads = {k: jnp.asarray(rng.normal(size=v.shape), v.dtype) for k, v in values.items()}
    got, _ = optimizer.update(grads, optimizer.init(values), values)
    for path in ("up", "down"):
        for expert in range(3):
            one = {path: values[path][expert]}
            own = plain({path: None})
            want, _ = own.update({path: grads[path][expert]}, own.init(one), one)
            np.testing.assert_allclose(got[path][expert], want[path], rtol=1e-4, atol=1e-6)


def test_a_program_tells_muon_the_axes():
    experiment = fusekit.experiment(
        modalities={
            "x": {"type": "tokens", "vocab": 5, "length": 4},
            "label": {"type": "label", "classes": 3},
        },
        encoders={"x": {"type": "transformer", "depth": 2, "width": 8, "heads": 2}},
        heads={"y": {"type": "classifier", "input": "x.mean", "classes": 3}},
        losses={"fit": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"}},
        train={"optimizer": {"type": "muon"}, "steps": 4},
    )
    for layers in ("scan", "unroll"):
        program = Program(fusekit.resolve(experiment), steps=4, layers=layers)
        state = jax.eval_shape(program.states.optimizer.init, program.states.abstract.params)
        paths = jax.tree_util.tree_leaves_with_path(state)
        muon = {
            str(step.key)
            for path, _ in paths
            if any(getattr(step, "key", None) == "muon" for step in path)
            for step in path
            if str(getattr(step, "key", "")).startswith(("x.", "y."))
        }
        kernels = {
            f"x.layers.{k}.{name}.kernel"
            for k in range(2)
            for name in (*(f"attention.{n}" for n in ("query", "key", "value", "out")),
                         "mlp.up", "mlp.down")
        }  # fmt: skip
        assert muon == {*kernels, "y.out.kernel"}, layers

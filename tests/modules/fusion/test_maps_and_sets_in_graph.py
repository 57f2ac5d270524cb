"""Maps, codes, equilibria and sets as whole experiments: skips, any mesh, any garbage, absence."""

from functools import cached_property

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.api import experiment
from fusekit.config.reference import parse_place
from fusekit.context import Context
from fusekit.errors import ConfigError, FusekitError, WiringError
from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Signature, Stream, sequence
from fusekit_modules.fusion.skip import SkipSpec
from tests.modules.fusion.harness import check
from tests.modules.fusion.lockstep import Lockstep
from tests.reference.transformer import block
from tests.support import strategies
from tests.support.compilations import compilations
from tests.support.often import often
from tests.support.training import arrays, distance, gradients

CONV = {"type": "conv", "widths": [4, 6], "norm": "none"}
MAPS = {
    "modalities": {
        "rgb": {"type": "image", "shape": [8, 8, 2], "optional": True},
        "depth": {"type": "image", "shape": [8, 8, 1], "optional": True},
    },
    "encoders": {
        "rgb": CONV,
        "depth": CONV,
        "context": {"type": "aspp", "input": "deep", "width": 4, "rates": [1, 2]},
        "decoder": {"type": "conv_decoder", "input": "codes", "widths": [4, 2], "norm": "none"},
    },
    "fusion": {
        "shallow": {"type": "ssma", "inputs": ["rgb@0", "depth@0"], "squeeze": 4},
        "deep": {"type": "ssma", "inputs": ["rgb", "depth"], "squeeze": 4},
        "codes": {"type": "quantise", "inputs": ["context"], "codes": 5, "width": 3},
        "skipped": {"type": "skip", "inputs": ["shallow"], "into": ["decoder@0"]},
    },
    "losses": {
        "pixels": {"type": "squared_error", "prediction": "decoder", "target": "batch.rgb"},
        "commit": {"type": "auxiliary", "input": "codes.commitment", "weight": 0.25},
    },
}
SETS = {
    "modalities": {
        "image": {"type": "features", "length": 4, "width": 4, "optional": True},
        "text": {"type": "features", "length": 3, "width": 4, "optional": True},
        "kinds": {"type": "token_labels", "classes": 3, "length": 2, "optional": True},
        "boxes": {"type": "features", "length": 2, "width": 4, "optional": True},
        "label": {"type": "label", "classes": 2},
    },
    "encoders": {
        "image": {"type": "embed", "width": 4},
        "text": {"type": "embed", "width": 4},
        "queries": {"type": "queries", "input": "nodes", "count": 3, "width": 4},
        "decoder": {"type": "transformer", "input": "queries", "depth": 1, "heads": 2},
    },
    "fusion": {
        "nodes": {"type": "graph_attention", "inputs": ["image", "text"], "heads": 2},
        "reading": {
            "type": "cross_attention",
            "inputs": ["nodes"],
            "into": "decoder@..",
            "heads": 2,
        },
        "still": {
            "type": "equilibrium",
            "inputs": ["image.mean", "text.mean"],
            "tolerance": 1e-6,
            "width": 16,
        },
    },
    "heads": {
        "kinds": {"type": "token_classifier", "input": "decoder", "classes": 4},
        "boxes": {"type": "token_regressor", "input": "decoder", "width": 4},
        "label": {"type": "classifier", "input": "still", "classes": 2},
    },
    "losses": {
        "objects": {
            "type": "set_matching",
            "prediction": "kinds",
            "target": "batch.kinds",
            "boxes": "boxes",
            "target_boxes": "batch.boxes",
        },
        "label": {"type": "cross_entropy", "prediction": "label", "target": "batch.label"},
    },
}
TRAIN = {"optimizer": {"type": "sgd", "momentum": 0.9}, "steps": 5, "learning_rate": 0.01}


class Trial:
    """One experiment on one device, and its first step."""

    def __init__(self, sections):
        self.graph = resolve(experiment(**sections, train=TRAIN))
        self.program = Program(self.graph)
        self.start = arrays(self.program.flat(self.program.init(0)))

    def step(self, program=None, **changes):
        program = program or self.program
        batch = strategies.batch(self.graph, 0, size=8, **changes)
        state, metrics = program.step(program.restored(self.start), batch)
        return arrays(program.flat(state)), arrays(metrics)

    @cached_property
    def first(self):
        return self.step()


@pytest.fixture(scope="module")
def trials():
    return {}


@pytest.fixture(params=often(["maps", "sets"], ["maps"]))
def trial(request, trials):
    return made(request.param, trials)


def made(name, trials):
    if name not in trials:
        trials[name] = Trial({"maps": MAPS, "sets": SETS}[name])
    return trials[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maps", "sets"])
def test_a_mesh_gives_what_one_device_gives(name, trials):
    trial = made(name, trials)
    layout = Layout.of({"data": 2, "fsdp": 2, "tensor": 2})
    state, metrics = trial.step(Program(trial.graph, layout=layout))
    plain, alone = trial.first
    np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-5)
    assert distance(gradients(state), gradients(plain)) < 1e-4
    for name, value in plain.items():
        if name.startswith("variables."):
            np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_garbage_and_absence(trial):
    with compilations() as seen:
        dirty = trial.step(garbage=np.nan)
        state, _ = trial.step(present=0.0, garbage=np.nan)
    assert len(seen) <= 1
    for one, other in zip(trial.first, dirty, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    assert all(np.isfinite(v).all() for v in state.values() if v.dtype.kind == "f")
    assert all(np.abs(value).max() > 0 for value in gradients(trial.first[0]).values())


def test_a_skip_that_fits_nowhere_is_told():
    fusion = {**MAPS["fusion"], "skipped": {**MAPS["fusion"]["skipped"], "into": ["decoder@1"]}}
    with pytest.raises(ConfigError, match="not the size"):
        resolve(experiment(**{**MAPS, "fusion": fusion}, train=TRAIN))


def test_skips_between_tokens():
    """x + W y before the layer; a sample that lacks y keeps its x."""
    spec = Lockstep(SkipSpec(inputs=["m1"]), depth=2, places=(1,), reads=1)  # pyright: ignore

    def reference(p, xs):
        out = np.zeros((3, 4))
        if 0 in xs:
            x = block(p, "stacks.0.0.", xs[0])
            if 1 in xs:
                x = x + (xs[1] @ p["layers.0.projections.0.kernel"])[: len(x)]
            out[: len(xs[0])] = block(p, "stacks.0.1.", x)
        return {"m0": out}

    streams = [sequence(3, 4, label="m0", padded=True), sequence(3, 2, label="m1")]
    check(spec, streams, reference, ports=("m0",))


def test_skips_into_a_map_add_a_projection():
    grid = Signature((("height", 2), ("width", 2), ("channel", 3)))
    large = Signature((("height", 4), ("width", 4), ("channel", 2)))
    spec = SkipSpec(inputs=["y"], into=[parse_place("x@0")])  # pyright: ignore
    spec.infer_edit((grid,), {"y": large})
    module = spec.build_layer(0, (grid,), {"y": large}, rngs=nnx.Rngs(0))
    x, y = np.random.default_rng(0).normal(size=(2, 1, 4, 4, 3)).astype("float32")
    small, read = Stream(jnp.zeros((1, 2, 2, 3))), Stream(jnp.asarray(y[..., :2]))
    (edit,), _ = module.enter((small,), {"y": read}, (), layers=[], context=Context())
    added = edit.then["upsample"].apply(Stream(jnp.asarray(x))).values
    kernel = np.asarray(module.projections[0].kernel[...])
    np.testing.assert_allclose(added, y[..., :2] @ kernel, rtol=1e-5, atol=1e-6)
    with pytest.raises(FusekitError, match="differ in size"):
        edit.then["upsample"].apply(small)
    with pytest.raises(WiringError, match="not the size"):
        spec.infer_edit((grid,), {"y": sequence(4, 3)})
    with pytest.raises(WiringError, match="number of inputs"):
        spec.infer_edit((grid,), {})

"""Losses made of other losses: prefixes of the width, and a learned uncertainty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fusekit
from fusekit.conformance.cases import KINDS, Case, varied
from fusekit.conformance.run import failures
from fusekit.errors import ConfigError, WiringError
from fusekit.graph.unit import UnitId
from fusekit.graph.units import templates
from fusekit.stream import Signature, Stream, vector
from fusekit_modules.losses.cross_entropy import CrossEntropySpec
from fusekit_modules.losses.info_nce import InfoNceSpec
from fusekit_modules.losses.matryoshka import MatryoshkaSpec
from fusekit_modules.losses.uncertainty import UncertaintySpec
from tests.modules.losses.harness import Stepped, differences, gradient, run, scalar

CONTRAST = {"type": "info_nce", "inputs": ["a", "b"], "learn": False, "temperature": 0.5}
TWO = {"a": vector(4), "b": vector(4)}
ROWS = np.array([True, True, False, True])


def contrast(a, b, width):
    a, b = (v[ROWS, :width] for v in (a, b))
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    logits = a @ b.T / 0.5
    both = [z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (logits, logits.T)]
    return -np.mean([np.diag(z) for z in both])


def test_prefixes_of_the_width():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 4))
    spec = MatryoshkaSpec(loss=CONTRAST, widths=[2, 3, 4], weights=[1, 0.5, 2])
    with jax.enable_x64(True):
        other = Stream(jnp.asarray(b))

        def loss(values):
            return scalar(run(spec, TWO, {"a": Stream(values), "b": other}, ROWS))

        def plain(values):
            return sum(
                c * contrast(values, b, m) for c, m in zip([1, 0.5, 2], [2, 3, 4], strict=True)
            )

        grad = gradient(loss, a, plain)
        assert not grad[~ROWS].any()


def test_each_width_has_its_own_temperature_and_queue():
    inner = {"type": "info_nce", "inputs": ["a", "b"], "queue": 3}
    stepped = Stepped(MatryoshkaSpec(loss=inner, widths=[2, 4]), TWO)
    rng = np.random.default_rng(1)
    b = rng.normal(size=(4, 4)).astype("float32")
    stepped({"a": rng.normal(size=(4, 4)).astype("float32"), "b": b}, {}, ROWS)
    for index, width in enumerate((2, 4)):
        held = b[ROWS, :width] / np.linalg.norm(b[ROWS, :width], axis=1, keepdims=True)
        np.testing.assert_allclose(stepped.variable(f"inner.{index}.queue.keys")[0], held, 1e-5)
    assert len(jax.tree.leaves(stepped.params)) == 2


@pytest.mark.parametrize(("likelihood", "part"), [("gaussian", 0.5), ("softmax", 1.0)])
def test_uncertainty(likelihood, part):
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    inner = {"type": "cross_entropy", "prediction": "head", "target": "batch.label"}
    spec = UncertaintySpec(loss=inner, likelihood=likelihood, log_variance=0.4)
    inputs = {"prediction": vector(3), "target": Signature((), "int", classes=3)}

    def plain(values, s):
        nll = -(values - np.log(np.exp(values).sum(1, keepdims=True)))
        own = nll[np.arange(4), target][ROWS].mean()
        return part * np.exp(-s) * own + s / 2

    with jax.enable_x64(True):
        stepped = Stepped(spec, inputs)
        s = float(jax.tree.leaves(stepped.params)[0])
        value, grads = stepped({"prediction": logits}, {"target": target}, ROWS)
        np.testing.assert_allclose(value, plain(logits, s), rtol=1e-10)
        numeric = differences(lambda v: plain(v, s), logits)
        np.testing.assert_allclose(grads["prediction"], numeric, rtol=1e-6, atol=1e-9)

        slope = differences(lambda v: plain(logits, v), np.asarray(s))
        np.testing.assert_allclose(stepped.slopes["log_variance"], slope, rtol=1e-6)
        nothing, _ = stepped({"prediction": logits}, {"target": target}, np.zeros(4, bool))
        assert nothing == stepped.slopes["log_variance"] == 0.0


@pytest.mark.parametrize("component", [UncertaintySpec, MatryoshkaSpec])
def test_they_obey_the_laws(component):
    (kinds,) = component.example_inputs()
    inputs = {role: dict(varied(KINDS[kind]))["missing"] for role, kind in kinds.items()}
    for settings in component.examples():
        case = Case(component.model_validate(settings), inputs, str(settings))
        assert not list(failures(case))


def test_references_are_those_of_the_loss_within():
    spec = UncertaintySpec(loss=CrossEntropySpec(prediction="h", target="batch.y"))
    found = [(path, role) for path, role, _ in spec.references()]
    assert found == [(("loss", "prediction"), "prediction"), (("loss", "target"), "target")]
    contrast = InfoNceSpec(inputs=["a", "b"])
    outer = UncertaintySpec(loss=MatryoshkaSpec(loss=contrast, widths=[2]))
    assert next(path for path, _, _ in outer.references()) == ("loss", "loss", "inputs", 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"widths": [2, 8]}, "fewer features"),
        ({"widths": [4, 2]}, "do not ascend"),
        ({"widths": [2, 4], "weights": [1]}, "one weight a width"),
        ({"widths": [2], "where": "batch.flag"}, "marked in the loss within"),
        ({"widths": [2], "loss": {**CONTRAST, "weight": 2}}, "would count for nothing"),
    ],
)
def test_misfits(fields, words):
    spec = MatryoshkaSpec(**{"loss": CONTRAST, **fields})
    with pytest.raises(WiringError, match=words):
        spec.check(TWO)


def experiment(loss):
    features = {"type": "features", "width": 4}
    return fusekit.experiment(
        modalities={"a": features, "b": {"type": "features", "width": 3}},
        heads={
            "x": {"type": "projection", "input": "batch.a", "width": 4},
            "y": {"type": "projection", "input": "batch.b", "width": 4},
        },
        losses={"it": {"type": "uncertainty", "loss": loss}},
    )


def test_complaints_name_the_field_within():
    """Of wiring, of a name that nothing has, and of a field."""
    contrast = {"type": "info_nce", "inputs": ["x", "batch.b"]}
    with pytest.raises(ConfigError, match=r"losses\.it\.loss\.inputs"):
        fusekit.resolve(experiment(contrast))
    with pytest.raises(ConfigError, match=r"losses\.it\.loss\.inputs\.1.*nothing is called z"):
        fusekit.resolve(experiment({"type": "info_nce", "inputs": ["x", "z"]}))
    with pytest.raises(ConfigError, match=r"losses\.it\.loss\.temprature"):
        experiment({"type": "info_nce", "inputs": ["x", "y"], "temprature": 1})


def test_paths_of_parameters():
    graph = fusekit.resolve(experiment({"type": "info_nce", "inputs": ["x", "y"]}))
    template = templates(graph)[UnitId("losses.it")]
    assert set(template.axes) == {("log_variance",), ("inner", "scale")}

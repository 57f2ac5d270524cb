"""Components that are laid out otherwise than the mesh says, and presets of meshes."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import fusekit
from fusekit.config.mesh import Mesh
from fusekit.errors import ConfigError, LayoutError, SpecError
from fusekit.graph.schedule import Scan
from fusekit.jaxprs import equations
from fusekit.layout import blocks, filled
from fusekit.plan.plan import sizes_of
from fusekit.program import Program
from fusekit.stream import Stream
from fusekit.train.experiment import layout_of
from fusekit_tpu.launch.fitting import sized
from fusekit_tpu.topology import Topology
from tests.support.training import assert_close, trained

WIDTH = 8
STACK = {"type": "transformer", "depth": 2, "width": WIDTH, "heads": 2, "mlp_ratio": 2}
FSDP = {"fsdp": 4, "tensor": 2}


def experiment(**mesh):
    modality = {"type": "features", "width": WIDTH, "length": 4}
    return fusekit.experiment(
        modalities={"a": modality, "b": modality, "label": {"type": "label", "classes": 4}},
        encoders={"a": STACK, "b": STACK},
        heads={
            "of_a": {"type": "classifier", "input": "a.mean", "classes": 4},
            "of_b": {"type": "classifier", "input": "b.mean", "classes": 4},
        },
        losses={
            name: {"type": "cross_entropy", "prediction": f"of_{name}", "target": "batch.label"}
            for name in ("a", "b")
        },
        train={"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 0.1, "steps": 10},
        mesh=mesh,
    )


def program(layers=None, **mesh):
    made = experiment(**mesh)
    return Program(fusekit.resolve(made), layout=layout_of(made), layers=layers)


def batch(rows=8):
    r = np.random.default_rng(0)
    found = {name: r.normal(size=(rows, 4, WIDTH)).astype("float32") for name in ("a", "b")}
    return {**{n: Stream(v) for n, v in found.items()}, "label": r.integers(0, 4, rows)}


def specs(made):
    """By path, over which axes an array of the first state lies."""
    return {name: tuple(leaf.sharding.spec) for name, leaf in made.flat(made.init(0)).items()}


def test_parameters_of_one_component_follow_its_own_rules_and_so_do_their_moments():
    own = {"b": {"params": {"mlp": None, "embed": "tensor"}}}
    found = specs(program(**FSDP, components=own))
    params = {n.partition("params.")[2]: s for n, s in found.items() if n.startswith("params.")}
    moments = {n.partition(".trace.")[2]: s for n, s in found.items() if ".trace." in n}
    for of in (params, moments):
        assert of["a.layers.0.mlp.up.kernel"] == ("fsdp", "tensor")
        assert of["b.layers.0.mlp.up.kernel"] == ("tensor", None)
        assert of["b.layers.1.attention.query.kernel"] == ("tensor", None, None)
        for name in of:
            if name.startswith("of_a."):
                assert of[name.replace("of_a", "of_b")] == of[name]


def test_what_a_component_gives_follows_its_own_rules():
    """`b` splits its width over `tensor` at its border; numbers stay those of one device."""
    own = {"b": {"activations": {"embed": "tensor", "batch": "fsdp"}}}
    made = program(**FSDP, components=own)
    rows = made.batch(batch())
    jaxpr = jax.make_jaxpr(made._step)(made.init(0), rows).jaxpr
    seen = {
        tuple(e.params["sharding"].spec)
        for e in equations(jaxpr)
        if e.primitive.name == "sharding_constraint"
    }
    assert ("fsdp", None, "tensor") in seen
    without = jax.make_jaxpr(program(**FSDP)._step)(made.init(0), rows).jaxpr
    others = [e for e in equations(without) if e.primitive.name == "sharding_constraint"]
    assert all(tuple(e.params["sharding"].spec) != ("fsdp", None, "tensor") for e in others)


@pytest.mark.slow
def test_numbers_are_those_of_one_device():
    own = {
        "b": {
            "params": {"mlp": None, "embed": "tensor"},
            "activations": {"embed": "tensor"},
            "remat": "names",
            "layers": "scan",
        }
    }
    one = trained(Program(fusekit.resolve(experiment())), [batch()])
    other = trained(program(**FSDP, components=own), [batch()])
    assert_close(other[0], one[0], atol=5e-6)
    assert_close(other[1][0], one[1][0], atol=1e-5)


def scanned(made):
    return {item.repeats[0][0].node for item in made.model.items if isinstance(item, Scan)}


def test_layers_of_one_component():
    assert scanned(program(layers=None, components={"b": {"layers": "scan"}})) == {"b"}
    one = {"layers": "scan", "components": {"b": {"layers": "unroll"}}}
    made = experiment(**one)
    assert scanned(Program(fusekit.resolve(made))) == {"a"}
    assert scanned(Program(fusekit.resolve(made), layers="scan")) == {"a", "b"}


def test_remat_of_one_component():
    made = Program(fusekit.resolve(experiment(remat="full", components={"b": {"remat": "none"}})))
    kept = {e.node: made.model.remat([e]) for e in made.graph.events if e.kind == "layer"}
    assert kept == {"a": "full", "b": "none"}


def test_components_that_are_not_there_and_words_that_do_not_fit():
    own = {
        "bb": {"remat": "full"},
        "of_a": {"remat": "full", "layers": "scan"},
        "a": {"params": {"mpl": "tensor"}},
    }
    with pytest.raises(ConfigError) as error:
        Program(fusekit.resolve(experiment(components=own)))
    found = {problem.path[2:]: problem for problem in error.value.problems}
    assert set(found) == {
        ("bb",),
        ("of_a", "remat"),
        ("of_a", "layers"),
        ("a", "params", "mpl"),
    }
    assert "b" in found["bb",].nearest
    assert "mlp" in found["a", "params", "mpl"].nearest


def sizes(**mesh):
    made = Mesh.model_validate(mesh)
    return {axis: getattr(made, axis) for axis in ("data", "fsdp", "tensor")}


def test_presets_are_sizes_and_explicit_fields_win():
    assert sizes(preset="data") == {"data": -1, "fsdp": 1, "tensor": 1}
    assert sizes(preset="fsdp", data=2) == {"data": 2, "fsdp": -1, "tensor": 1}
    assert sizes(preset="tensor") == {"data": 1, "fsdp": 1, "tensor": -1}
    assert sizes(preset="hybrid", tensor=2) == {"data": -1, "fsdp": -1, "tensor": 2}
    with pytest.raises(SpecError, match="`data` and `tensor` are all -1"):
        Mesh(preset="tensor", data=-1)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("data", (8, 1, 1)), ("fsdp", (1, 8, 1)), ("tensor", (1, 1, 8)), ("hybrid", (1, 8, 1))],
)
def test_a_preset_takes_all_devices(preset, expected):
    """Eight devices of one process: for `hybrid` they are one machine."""
    shape = layout_of(experiment(preset=preset)).mesh.shape
    assert (shape["data"], shape["fsdp"], shape["tensor"]) == expected


def test_hybrid_keeps_fsdp_within_a_slice_or_a_machine():
    assert filled({"data": -1, "fsdp": -1, "tensor": 2}, 32, 8) == {
        "data": 4,
        "fsdp": 4,
        "tensor": 2,
    }
    with pytest.raises(LayoutError, match="8 devices of one slice or machine do not divide by 3"):
        filled({"data": -1, "fsdp": -1, "tensor": 3}, 24, 8)
    for shape, slices, expected in (("v5e:4x4", 2, (2, 16)), ("h200:8x4", 1, (4, 8))):
        topology = Topology.parse(shape, slices=slices)
        made = experiment(preset="hybrid")
        planned, launched = sizes_of(made, topology), sized(made, topology)
        assert (planned["data"], planned["fsdp"]) == expected
        assert (launched["data"], launched["fsdp"]) == expected


def test_machines_are_told_apart_by_their_processes_and_slices_by_their_number():
    gpus = [SimpleNamespace(platform="gpu", process_index=k // 4) for k in range(8)]
    tpus = [SimpleNamespace(platform="tpu", process_index=k, slice_index=k // 4) for k in range(8)]
    assert blocks(gpus) == blocks(tpus) == 2

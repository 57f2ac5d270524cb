"""Which backend runs what: chosen by `mesh`, noted while tracing, and told beforehand."""

from collections import Counter

import jax
import pytest

import fusekit
import fusekit_modules  # noqa: F401 - registers the components
from fusekit.asked import check_kernels
from fusekit.backends import Devices, StandIn, abstract_layout, backends
from fusekit.batch import blank
from fusekit.errors import ConfigError
from fusekit.layout import Layout
from fusekit.program import Program
from tests.support.often import often

CPU = Devices()
V5E = Devices(StandIn("tpu", "TPU v5 lite"))
H100 = Devices(StandIn("gpu", "NVIDIA H100", "9.0"))


def graph(*, compute="bfloat16", causal=False, batch=8, **mesh):
    stack = {"type": "transformer", "depth": 3, "width": 32, "heads": 2}
    pair = {"inputs": ["a_z", "b_z"]}
    return fusekit.resolve(
        fusekit.experiment(
            modalities={
                "a": {"type": "features", "width": 3, "length": 4},
                "b": {"type": "features", "width": 3, "length": 5, "optional": True},
            },
            encoders={"a": dict(stack, causal=causal), "b": stack},
            fusion={
                "joint": {"type": "bottleneck", "tokens": 2, "into": ["a@1..", "b@1.."]},
            },
            heads={
                "a_z": {"type": "projection", "input": "a.mean", "width": 8},
                "b_z": {"type": "projection", "input": "b.mean", "width": 8},
            },
            losses={
                "align": {"type": "info_nce", **pair},
                "pairs": {"type": "siglip", **pair},
                "volume": {"type": "gram", **pair},
            },
            train={"compute": compute, "batch": batch},
            mesh=mesh,
        )
    )


def by_component(graph, devices):
    return {(c.component, c.operation): c.backend for c in backends(graph, devices)}


LOSSES = {
    ("losses.align", "contrast"),
    ("losses.pairs", "contrast of pairs"),
    ("losses.volume", "contrast of volumes"),
}
STACKS = {("a", "attention"), ("b", "attention")}


def test_auto():
    few = {**dict.fromkeys(LOSSES, "xla"), ("losses.volume", "contrast of volumes"): "reference"}
    assert by_component(graph(), CPU) == {**dict.fromkeys(STACKS, "xla"), **few}
    assert by_component(graph(), V5E) == {**dict.fromkeys(STACKS, "xla"), **few}
    assert by_component(graph(), H100) == {**dict.fromkeys(STACKS, "gpu"), **few}
    wide = graph(compute="float32")
    assert by_component(wide, H100) == {**dict.fromkeys(STACKS, "xla"), **few}


def test_auto_of_many_rows_takes_kernels_for_what_the_model_computes_in():
    def of_losses(devices, compute):
        found = by_component(graph(compute=compute, batch=4096), devices)
        return [found[loss] for loss in sorted(LOSSES)]

    assert of_losses(H100, "bfloat16") == ["gpu", "xla", "xla"]
    assert of_losses(H100, "float32") == ["xla", "xla", "xla"]
    # of volumes, rounding would be too much; what else TPUs multiply is bfloat16 in any case
    assert of_losses(V5E, "bfloat16") == of_losses(V5E, "float32") == ["tpu", "tpu", "xla"]


@pytest.mark.parametrize("kernel", ["xla", "reference"])
def test_the_mesh_reaches_all_operations(kernel):
    every = dict.fromkeys(STACKS | LOSSES, kernel)
    for devices in (CPU, V5E, H100):
        assert by_component(graph(kernel=kernel), devices) == every


def test_pallas_of_all_takes_kernels_where_they_can():
    found = by_component(graph(kernel="pallas"), V5E)
    assert found.pop(("losses.volume", "contrast of volumes")) == "reference"
    assert set(found.values()) == {"tpu"}
    (volume,) = (c for c in backends(graph(kernel="pallas"), V5E) if "volume" in c.path)
    assert volume.unmet == "it multiplies bfloat16, and vectors are of float32"
    found = by_component(graph(kernel="pallas"), H100)
    assert found.pop(("losses.volume", "contrast of volumes")) == "reference"  # in float32
    assert set(found.values()) == {"gpu"}


def test_a_component_has_its_own():
    own = {"b": {"kernel": "reference"}, "losses.pairs": {"kernel": "xla"}}
    found = by_component(graph(components=own, kernel="pallas"), H100)
    due = dict.fromkeys(STACKS | LOSSES, "gpu")
    due |= {("b", "attention"): "reference", ("losses.pairs", "contrast of pairs"): "xla"}
    due["losses.volume", "contrast of volumes"] = "reference"
    assert found == due


def test_over_a_mesh_of_devices_that_are_not_here():
    made = graph(kernel="pallas", data=2, tensor=2)
    layout = abstract_layout({"data": 2, "tensor": 2}, **made.experiment.mesh.rules())
    found = by_component(made, Devices(V5E.device, layout))
    assert found["a", "attention"] == found["losses.align", "contrast"] == "tpu"
    ring = graph(kernel="pallas", sequence=2)
    layout = abstract_layout({"sequence": 2}, **ring.experiment.mesh.rules())
    (first, *_) = backends(ring, Devices(V5E.device, layout))
    assert (first.backend, first.unmet[:16]) == ("xla", "tokens are split")


def noted(program):
    state, rows = program.states.abstract, blank(program.model, 8)
    text = program.compiled_step.lower(state, rows).as_text()
    return program.choices, text


@pytest.mark.parametrize("layers", often(["scan", "unroll"], ["scan"]))
def test_a_step_notes_each_choice_once_and_stays_the_same(layers, monkeypatch):
    made = graph(remat="full")
    choices, text = noted(Program(made, layers=layers))
    found = Counter((c.component, c.operation, c.shapes) for c in choices)
    assert set(found.values()) == {1}
    assert {(c.component, c.operation) for c in choices} == STACKS | LOSSES
    monkeypatch.setattr(fusekit.context.Context, "note", lambda self, chosen: 1 / 0)
    program = Program(made, layers=layers)
    program.choices = None  # nobody asks
    assert noted(program) == (None, text)


def test_nothing_is_noted_of_evaluation():
    program = Program(graph(), layout=Layout.of(devices=jax.devices()[:1]))
    jax.eval_shape(program._evaluate, program.states.abstract, blank(program.model, 8))
    assert not program.choices


def refused(made, *places):
    with pytest.raises(ConfigError) as error:
        check_kernels([made], places=places)
    return {".".join(map(str, p.path)): p.message for p in error.value.problems}


def test_what_is_asked_for_and_cannot_is_told_all_at_once():
    own = {name: {"kernel": "pallas"} for name in ("a", "a_z", "losses.volume", "losses.align")}
    made = graph(components=own, causal=True)
    found = refused(made, V5E)
    start = "`kernel: pallas` cannot run: "
    assert found == {
        "mesh.components.a.kernel": (
            f"{start}attention: what may be read differs from query to query"
        ),
        "mesh.components.a_z.kernel": f"{start}nothing that it runs has a kernel",
        "mesh.components.losses.volume.kernel": (
            f"{start}contrast of volumes: it multiplies bfloat16, and vectors are of float32"
        ),
    }
    both = refused(made, V5E, H100)["mesh.components.losses.volume.kernel"]
    assert "vectors are of float32; or contrast of volumes: float32 volumes take" in both
    reference = graph(components={"a": {"kernel": "reference"}}, causal=True)
    assert list(refused(reference, CPU)) == ["mesh.components.a.kernel"]


def test_pallas_of_all_must_run_somewhere():
    made = graph(kernel="pallas")
    check_kernels([made], places=[V5E])
    assert list(refused(made, CPU)) == ["mesh.kernel"]
    check_kernels([graph(kernel="xla")], places=[CPU])


def test_by_name_it_is_an_error_while_tracing_too():
    made = Program(graph(components={"a": {"kernel": "pallas"}}))
    with pytest.raises(
        fusekit.FusekitError, match=r"a\.layers: attention cannot use `kernel: pallas`"
    ):
        noted(made)

"""Stacks of which some layers scan: what can be declared, and one result however they run."""

import re

import jax
import numpy as np
import pytest

import fusekit
from fusekit.errors import ConfigError
from fusekit.graph.node import Key
from fusekit.graph.schedule import Scan
from fusekit.program import Program
from tests.support.long import early, rows
from tests.support.meshes import CUBE, check_meshes
from tests.support.training import assert_close, distance, gradients, trained

SMALL = {"depth": 6, "mlp_ratio": 1, "scan": {"states": 4}}
HYBRID = {**SMALL, "mixer": ["ssd", "ssd", "attention"]}
SGD = {"batch": 4, "steps": 3, "optimizer": {"type": "sgd", "momentum": 0.9}}
CUT = [(True, CUBE), (False, CUBE), (True, {"sequence": 2, "tensor": 2})]
"""Whether causal, and over which mesh."""


def made(trunk=None, **more):
    return early(8, trunk=HYBRID if trunk is None else trunk, width=8, train=SGD, **more)


def problem(trunk, **more):
    """The one thing that is wrong, as text."""
    with pytest.raises(ConfigError) as caught:
        fusekit.resolve(made({**HYBRID, **trunk}, **more))
    (found,) = caught.value.problems
    return f"{'.'.join(map(str, found.path))}: {found.message} | {found.found} | {found.expected}"


@pytest.mark.slow
def test_mixers_repeat_and_periods_are_scanned():
    """One state by canonical paths, and one result, whether layers are scanned or not."""
    trunk = {**SMALL, "depth": 4, "mixer": ["ssd", "attention"], "causal": True, "readout": 1}
    experiment = made(trunk)
    graph, found = fusekit.resolve(experiment), {}
    for layers in ("unroll", "scan"):
        program = Program(graph, layers=layers)
        found[layers] = trained(program, [rows(experiment)])
        scans = [item for item in program.model.items if isinstance(item, Scan)]
        periods = [[e.index for e in scan.repeats[0]] for scan in scans if scan.count > 1]
        assert periods == ([[0, 1]] if layers == "scan" else [])
    (one, losses), (other, theirs) = found["unroll"], found["scan"]
    assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert_close(losses[0], theirs[0], atol=1e-5, rtol=1e-4)
    kinds = set(re.findall(r"trunk\.layers\.(\d)\.(ssd|attention)\.", " ".join(one)))
    assert kinds == {("0", "ssd"), ("1", "attention"), ("2", "ssd"), ("3", "attention")}


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "mesh"), CUT)
def test_meshes_give_what_one_device_gives(causal, mesh):
    """Heads and examples are cut, stored weights gathered; time is made whole where it is cut."""
    trunk = {**HYBRID, "depth": 3, "causal": causal, "readout": 1, "dropout": 0.1}
    experiment = made(trunk, mesh={"layers": "unroll"})
    check_meshes(experiment, rows(experiment), [mesh])


@pytest.mark.slow
def test_a_stack_of_all_mixers_is_one_result_scanned_or_not():
    trunk = {**SMALL, "depth": 6, "mixer": ["selective", "ssd", "attention"], "readout": 1}
    experiment = made(trunk)
    graph, found = fusekit.resolve(experiment), {}
    for layers in ("unroll", "scan"):
        program = Program(graph, layers=layers)
        found[layers] = trained(program, [rows(experiment)])
        scans = [item for item in program.model.items if isinstance(item, Scan)]
        assert [scan.count for scan in scans if scan.count > 1] == ([2] if layers == "scan" else [])
    (one, losses), (other, theirs) = found["unroll"], found["scan"]
    assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert_close(losses[0], theirs[0], atol=1e-5, rtol=1e-4)
    kinds = set(re.findall(r"trunk\.layers\.(\d)\.(ssd|selective|attention)\.", " ".join(one)))
    assert kinds == set(zip("012345", ["selective", "ssd", "attention"] * 2, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "mesh"), CUT)
def test_meshes_cut_the_channels_of_selective_scans(causal, mesh):
    trunk = {**SMALL, "depth": 2, "mixer": ["selective", "attention"], "causal": causal}
    experiment = made({**trunk, "readout": 1, "dropout": 0.1}, mesh={"layers": "unroll"})
    check_meshes(experiment, rows(experiment), [mesh])


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "names"])
def test_what_is_computed_again_is_the_same(remat):
    found = []
    for policy in ("none", remat):
        trunk = {**HYBRID, "depth": 3, "remat": policy}
        experiment = made(trunk, mesh={"saved": ["scan"]} if policy == "names" else {})
        flat, _ = trained(Program(fusekit.resolve(experiment)), [rows(experiment)])
        found.append(gradients(flat))
    assert distance(*found) < 1e-5


@pytest.mark.slow
def test_in_bfloat16_gradients_are_near():
    found = []
    for compute in ("float32", "bfloat16"):
        trunk = {**HYBRID, "depth": 3, "readout": 1}
        experiment = early(8, trunk=trunk, width=8, train={**SGD, "compute": compute})
        flat, _ = trained(Program(fusekit.resolve(experiment)), [rows(experiment)])
        found.append(gradients(flat))
    assert distance(found[1], found[0]) < 5e-2


@pytest.mark.slow
def test_operators_that_bring_tokens_and_change_weights():
    fusion = {
        "lora": {"type": "lora", "into": "a@..", "targets": ["ssd.x", "ssd.out"], "rank": 2},
        "adapter": {"type": "adapter", "into": "b@..", "hidden": 2},
        "meet": {"type": "bottleneck", "into": ["a@..", "b@.."], "tokens": 2},
    }
    each = {**SMALL, "type": "transformer", "depth": 2, "heads": 2, "mixer": "ssd"}
    experiment = made({"depth": 1}, each=each, fusion=fusion)
    flat, metrics = trained(Program(fusekit.resolve(experiment)), [rows(experiment)])
    assert np.isfinite(metrics[0]["loss"])
    moved = {name for name, grad in gradients(flat).items() if np.abs(grad).max() > 0}
    for name in (
        "lora.layers.1.",
        "lora.layers.0.",
        "adapter.layers.1.",
        "meet.",
        "b.layers.1.ssd.",
    ):
        assert any(other.startswith(name) for other in moved), name


def test_operators_that_need_keys_are_told_where_there_are_some():
    fusion = {"memory": {"type": "memory", "inputs": ["a"], "into": "trunk@.."}}
    assert problem({}, fusion=fusion) == (
        "fusion.memory.into.0: memory needs the hook keys_values, which layer 0 of trunk (ssd) "
        "does not have"
        " | trunk@.. (norm, replace, residual, skip, then, tokens, weights)"
        " | layers that have it: trunk@2+5"
    )
    mask = {"mask": {"type": "mask", "into": "trunk@1", "attend": "all"}}
    assert "needs the hook mask, which layer 1 of trunk (ssd)" in problem({}, fusion=mask)
    fusion["memory"]["into"] = "trunk@2+5"
    fusekit.resolve(made(fusion=fusion))
    only = {"mixer": "ssd"}
    assert problem(only, fusion=fusion).endswith("a stack with layers that have it")


def test_operators_of_keys_are_refused_by_selective_scans_too():
    fusion = {"memory": {"type": "memory", "inputs": ["a"], "into": "trunk@.."}}
    assert problem({"mixer": ["selective", "attention"]}, fusion=fusion) == (
        "fusion.memory.into.0: memory needs the hook keys_values, which layer 0 of trunk "
        "(selective) does not have"
        " | trunk@.. (norm, replace, residual, skip, then, tokens, weights)"
        " | layers that have it: trunk@1+3+5"
    )
    mask = {"mask": {"type": "mask", "into": "trunk@1", "attend": "all"}}
    found = problem({"mixer": "selective"}, fusion=mask)
    assert "needs the hook mask, which layer 1 of trunk (selective)" in found


def test_low_rank_deltas_of_what_a_layer_lacks():
    fusion = {"lora": {"type": "lora", "into": "trunk@1..2", "targets": ["attention"], "rank": 2}}
    found = problem({}, fusion=fusion)
    assert "layers of trunk@1..2 have no such projection | attention | ssd, feed_forward" in found


@pytest.mark.parametrize(
    ("trunk", "due"),
    [
        (
            {"mixer": "attention"},
            "encoders.trunk.scan: no layer scans, so `scan` says nothing | mixer: attention",
        ),
        (
            {"attend": {"a": ["a"], "b": ["a", "b"]}},
            "encoders.trunk.attend: `attend` says who reads whom, which a layer that scans cannot",
        ),
        ({"attend": "item"}, "encoders.trunk.attend: items do not see one another, but scans go"),
        (
            {"attend": "all", "scan": {"resets": "label"}},
            "encoders.trunk.scan.resets: all tokens see one another, but scans begin anew",
        ),
        (
            {"mixer": "ssd", "positions": "rotary"},
            "encoders.trunk.positions: rotary positions turn queries and keys, which no layer has",
        ),
        (
            {"mixer": "ssd", "readout": 1, "scan": {"resets": "label"}},
            "encoders.trunk.readout: readout tokens would read one label alone",
        ),
        (
            {"scan": {"groups": 3}},
            "encoders.trunk.scan.groups: the groups do not divide the heads of the scan | 3 "
            "groups, 4 heads",
        ),
        (
            {"mixer": "selective", "scan": {"groups": 2}},
            "encoders.trunk.scan.groups: no layer obeys `groups`, a setting of ssd | mixer: "
            "selective",
        ),
        (
            {"scan": {"rank": 2}},
            "encoders.trunk.scan.rank: no layer obeys `rank`, a setting of selective | mixer: "
            "ssd, ",
        ),
        ({"depth": 2}, "encoders.trunk.mixer: there are more mixers than layers | 3 mixers"),
        ({"causal": True, "attend": "all"}, "encoders.trunk.causal: `causal` and `attend` both"),
    ],
)
def test_what_cannot_be_said(trunk, due):
    assert problem(trunk).startswith(due)


@pytest.mark.parametrize("mixer", ["mamba", [], ["ssd", "atention"], 3])
def test_what_is_no_mixer(mixer):
    with pytest.raises(ConfigError) as caught:
        made({**SMALL, "mixer": mixer})
    assert "mixer" in str(caught.value)


def test_resets_by_label_are_seen_end_to_end():
    """What is read after a boundary does not depend on the other modality."""
    trunk = {**SMALL, "depth": 2, "mixer": "ssd", "causal": True}
    for resets, due in (("label", True), ("segment", False)):
        experiment = made({**trunk, "scan": {"states": 4, "resets": resets}})
        program = Program(fusekit.resolve(experiment))
        state, given = program.init(0), rows(experiment)
        other = {**given, "a": (given["a"] + 1) % 50}
        found = [read(program, state, one) for one in (given, other)]
        present = np.arange(4) % 2 == 0
        assert np.array_equal(found[0][present], found[1][present]) == due


def read(program, state, given):
    """What comes out of the trunk for `b`."""
    context = program.context("evaluate", None)

    def call(batch):
        found, _ = program.model.apply(state.params, state.variables, batch, context=context)
        return found[Key("out", "trunk")].span("b").values

    return np.asarray(jax.jit(call)(program.batch(given)))

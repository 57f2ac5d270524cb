"""Stacks of which some layers scan: what can be declared, and one result however they run."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.errors import ConfigError
from fusekit.graph.schedule import Scan
from fusekit.program import Program
from tests.support.long import early, rows
from tests.support.meshes import CUBE, check_meshes
from tests.support.training import assert_close, distance, gradients, trained

SMALL = {"depth": 6, "mlp_ratio": 1, "scan": {"states": 4}}
HYBRID = {**SMALL, "mixer": ["ssd", "ssd", "attention"]}
SGD = {"batch": 4, "steps": 3, "optimizer": {"type": "sgd", "momentum": 0.9}}


def made(trunk=None, **more):
    return early(8, trunk=HYBRID if trunk is None else trunk, width=8, train=SGD, **more)


def problem(trunk, **more):
    """The one thing that is wrong, as text."""
    with pytest.raises(ConfigError) as caught:
        fusekit.resolve(made({**HYBRID, **trunk}, **more))
    (found,) = caught.value.problems
    return f"{'.'.join(map(str, found.path))}: {found.message} | {found.found} | {found.expected}"


def test_mixers_repeat_and_periods_are_scanned():
    """One state by canonical paths, and one result, whether layers are scanned or not."""
    experiment = made({**HYBRID, "causal": True, "readout": 1})
    graph, found = fusekit.resolve(experiment), {}
    for layers in ("unroll", "scan"):
        program = Program(graph, layers=layers)
        found[layers] = trained(program, [rows(experiment)] * 2)
        scans = [item for item in program.model.items if isinstance(item, Scan)]
        periods = [[e.index for e in scan.repeats[0]] for scan in scans if scan.count > 1]
        assert periods == ([[0, 1, 2]] if layers == "scan" else [])
    (one, losses), (other, theirs) = found["unroll"], found["scan"]
    assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert_close(losses[1], theirs[1], atol=1e-5, rtol=1e-4)
    kinds = {
        k: {n.split(".")[3] for n in one if n.startswith(f"trunk.layers.{k}.")} for k in range(6)
    }
    assert {k for k in kinds if "ssd" in kinds[k]} == {0, 1, 3, 4}
    assert {k for k in kinds if "attention" in kinds[k]} == {2, 5}


@pytest.mark.parametrize("causal", [False, True])
def test_meshes_give_what_one_device_gives(causal):
    """Heads and examples are cut, stored weights gathered; time is made whole where it is cut."""
    trunk = {**HYBRID, "depth": 3, "causal": causal, "readout": 1, "dropout": 0.1}
    experiment = made(trunk, mesh={"layers": "unroll"})
    meshes = [CUBE, {"sequence": 2, "tensor": 2}] if causal else [CUBE]
    check_meshes(experiment, rows(experiment), meshes)


@pytest.mark.parametrize("remat", ["full", "names"])
def test_what_is_computed_again_is_the_same(remat):
    found = []
    for policy in ("none", remat):
        trunk = {**HYBRID, "depth": 3, "remat": policy}
        experiment = made(trunk, mesh={"saved": ["scan"]} if policy == "names" else {})
        flat, _ = trained(Program(fusekit.resolve(experiment)), [rows(experiment)])
        found.append(gradients(flat))
    assert distance(*found) < 1e-5


def test_in_bfloat16_gradients_are_near():
    found = []
    for compute in ("float32", "bfloat16"):
        trunk = {**HYBRID, "depth": 3, "readout": 1}
        experiment = early(8, trunk=trunk, width=8, train={**SGD, "compute": compute})
        flat, _ = trained(Program(fusekit.resolve(experiment)), [rows(experiment)])
        found.append(gradients(flat))
    assert distance(found[1], found[0]) < 5e-2


def test_operators_that_tokens_bring_and_weights_change():
    """A bottleneck, adapters and low-rank deltas of what scans."""
    fusion = {
        "lora": {"type": "lora", "into": "trunk@0+1", "targets": ["ssd.x", "ssd.out"], "rank": 2},
        "adapter": {"type": "adapter", "into": "trunk@..", "hidden": 2},
        "bottleneck": {"type": "bottleneck", "into": ["trunk@..", "a@.."], "tokens": 2},
    }
    stack = {"type": "transformer", "depth": 3, "heads": 2, **{k: HYBRID[k] for k in ("scan",)}}
    each = {**stack, "mixer": "ssd", "mlp_ratio": 1}
    experiment = made({**HYBRID, "depth": 3}, each=each, fusion=fusion)
    program = Program(fusekit.resolve(experiment))
    flat, metrics = trained(program, [rows(experiment)])
    assert np.isfinite(metrics[0]["loss"])
    moved = gradients(flat)
    for name in ("lora.layers.1.ssd.x.b", "lora.layers.0.ssd.out.b", "bottleneck.tokens"):
        close = [n for n in moved if n.startswith(name.rsplit(".", 1)[0])]
        assert name in moved, close
        assert np.abs(moved[name]).max() > 0


def test_operators_that_need_keys_are_told_where_there_are_some():
    fusion = {"memory": {"type": "memory", "inputs": ["a"], "into": "trunk@.."}}
    assert problem({}, fusion=fusion) == (
        "fusion.memory.into.0: memory needs the hook keys_values, which layer 0 of trunk (ssd) does "
        "not have | trunk@.. (norm, replace, residual, skip, then, tokens, weights) | layers that "
        "have it: trunk@2+5"
    )
    mask = {"mask": {"type": "mask", "into": "trunk@1", "attend": "all"}}
    assert "needs the hook mask, which layer 1 of trunk (ssd)" in problem({}, fusion=mask)
    fusion["memory"]["into"] = "trunk@2+5"
    fusekit.resolve(made(fusion=fusion))
    only = {"mixer": "ssd"}
    assert problem(only, fusion=fusion).endswith("a stack with layers that have it")


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
            "encoders.trunk.scan.groups: the groups do not divide the heads of the scan | 3 groups, "
            "4 heads",
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
        found = [np.asarray(spans(program, state, one)["b"]) for one in (given, other)]
        present = np.arange(4) % 2 == 0
        assert np.array_equal(found[0][present], found[1][present]) == due


def spans(program, state, given):
    """What comes out of the trunk, by label."""
    from fusekit.graph.node import Key

    context = program.context("evaluate", None)
    call = jax.jit(
        lambda batch: program.model.apply(state.params, state.variables, batch, context=context)[0]
    )
    stream = call(program.batch(given))[Key("out", "trunk")]
    return {label: stream.span(label).values for label in ("a", "b")}

"""The search over meshes, with a compiler that is made up: what it is asked, and what is chosen."""

from dataclasses import replace
from math import prod

import pytest

import fusekit
from fusekit.errors import FusekitError
from fusekit.graph import resolve
from fusekit.plan import search as module
from fusekit.plan.analytic import analytic
from fusekit.plan.candidates import candidates_of, meshes
from fusekit.plan.plan import priced
from fusekit.plan.search import search
from fusekit.plan.table import render_search
from fusekit.plan.times import limit
from fusekit.plan.traced import traced_step
from fusekit_tpu.topology import Topology
from tests.plan.models import LAYER, bottleneck, single

TOPOLOGY = Topology.parse("v5e:4x4")


def test_meshes_are_all_products_and_experts_only_where_there_are_some():
    found = list(meshes(resolve(bottleneck()), TOPOLOGY))
    assert len(found) == 15  # 16 = 2^4 over three axes: C(6, 2)
    assert {prod(one.values()) for one in found} == {16}
    two = list(meshes(resolve(bottleneck()), Topology.parse("v5e:4x4", slices=2)))
    assert {one["data"] % 2 for one in two} == {0}


def test_a_batch_that_divides_over_nothing_is_refused():
    with pytest.raises(FusekitError, match="a batch of 3 divides over no mesh"):
        search(single(batch=3, encoders=ENCODERS), Topology.parse("v5e:16x16"))


def made_up(monkeypatch, *, too_large=(), faster=1.0):
    """A compiler that says what formulas say, and refuses room to some meshes."""
    asked, traced = [], {}

    def pricer(graph, topology, sizes, **_):
        mesh = graph.experiment.mesh
        if mesh.remat not in traced:
            traced[mesh.remat] = traced_step(graph, graph.experiment.train.batch)

        def price(layers):
            asked.append((dict(sizes), mesh.remat, mesh.microbatches, layers))
            cost = analytic(graph, traced[mesh.remat], sizes, topology)
            if layers == "unroll":
                cost = replace(cost, compute=cost.compute * faster)
            if sizes["tensor"] in too_large:
                cost = replace(cost, peak=2 * limit(topology), fits=False)
            return priced(layers, "compiled", cost, topology)

        return price

    monkeypatch.setattr(module, "pricer", pricer)
    monkeypatch.setattr(module, "devices", lambda topology: [])
    return asked


ENCODERS = {"image": {**LAYER, "depth": 3, "remat": "none"}}
SCANNED = {"mesh": {"layers": "scan"}, "encoders": ENCODERS}


def test_few_are_compiled_and_the_fastest_that_fits_is_taken(monkeypatch):
    asked = made_up(monkeypatch)
    found = search(single(batch=64, **SCANNED), TOPOLOGY, finalists=3)
    assert len(asked) == 3
    assert found.best is found.tried[0]
    every = list(candidates_of(single(batch=64, **SCANNED), TOPOLOGY))
    assert len(found.tried) + len(found.rest) == len(every)
    assert found.best.seconds == min(one.seconds for one in every)


def test_what_does_not_fit_is_never_taken(monkeypatch):
    made_up(monkeypatch, too_large=(1, 2, 4, 8, 16))
    found = search(single(batch=64, **SCANNED), TOPOLOGY, finalists=2)
    assert found.best is None
    assert [one.compiled.fits for one in found.tried] == [False, False]


def test_what_a_compilation_needed_beyond_formulas_is_reckoned_in(monkeypatch):
    made_up(monkeypatch, too_large=(1,))
    found = search(single(batch=64, **SCANNED), TOPOLOGY, finalists=3)
    # after one that needs thousands of times more, all are thought too large: the smallest is next
    second = [one for one in (*found.tried, *found.rest) if one.sizes["tensor"] > 1]
    assert found.best in second


@pytest.mark.parametrize(("faster", "layers"), [(0.5, "unroll"), (2.0, "scan")])
@pytest.mark.parametrize(("depth", "scans"), [(3, 3), (72, 2)])
def test_the_best_is_compiled_the_other_way_too(monkeypatch, faster, layers, depth, scans):
    asked = made_up(monkeypatch, faster=faster)
    encoders = {"image": {**ENCODERS["image"], "depth": depth}}
    found = search(single(batch=64, encoders=encoders), TOPOLOGY)
    # of a deep stack the last is two, of short forms
    assert [one[3] for one in asked] == [*["scan"] * scans, "unroll"]
    assert found.best.layers == layers


def test_many_layers_are_tried_one_by_one_only_where_that_is_asked_for(monkeypatch):
    asked = made_up(monkeypatch, faster=0.5)
    found = search(bottleneck(depth=26), TOPOLOGY)
    assert [one[3] for one in asked] == ["scan"] * 4
    assert [line for line in found.why if "compared" in line] == [
        "layers one by one are not compared: 52 of them take minutes to compile, "
        "as mesh.layers: unroll does"
    ]
    asked.clear()
    found = search(bottleneck(depth=26, mesh={"layers": "unroll"}), TOPOLOGY)
    assert {one[3] for one in asked} == {"unroll"}
    assert not any("compared" in line for line in found.why)


def test_remat_and_microbatches_are_tried_where_memory_asks_for_them():
    found = list(candidates_of(single(batch=64), TOPOLOGY))
    data = [one for one in found if one.sizes["data"] == 16]
    assert {one.remat for one in data} == {"none", "dots", "names", "full"}
    assert {one.microbatches for one in data} == {1, 2, 4}
    by = {(one.remat, one.microbatches): one for one in data}
    assert by["full", 1].cost.flops > by["none", 1].cost.flops
    assert by["none", 4].cost.ici["data",] == pytest.approx(4 * by["none", 1].cost.ici["data",])
    assert by["none", 4].seconds > by["none", 1].seconds
    assert by["none", 4].cost.peak < by["none", 1].cost.peak


def test_losses_that_couple_samples_are_not_cut_in_microbatches():
    contrastive = fusekit.experiment(
        modalities={n: {"type": "features", "width": 8} for n in ("a", "b")},
        encoders={n: {"type": "mlp", "hidden": 8, "width": 8} for n in ("a", "b")},
        losses={"near": {"type": "info_nce", "inputs": ["a", "b"]}},
        data={"made": {"type": "synthetic"}},
        train={"batch": 64, "steps": 3},
    )
    assert {one.microbatches for one in candidates_of(contrastive, TOPOLOGY)} == {1}


def test_the_choice_is_explained(monkeypatch):
    made_up(monkeypatch)
    text = render_search(search(single(batch=64, encoders=ENCODERS), TOPOLOGY))
    assert "the choice waits most for" in text
    assert "to take it: mesh: {" in text

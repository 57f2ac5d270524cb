"""The search over meshes, with a compiler that is made up: what it is asked, and what is chosen."""

from dataclasses import replace
from math import prod

import pytest

from fusekit.errors import FusekitError
from fusekit.graph import resolve
from fusekit.plan import search as module
from fusekit.plan.analytic import analytic, traced_step
from fusekit.plan.plan import priced
from fusekit.plan.search import candidates_of, meshes, search
from fusekit.plan.times import limit
from fusekit_tpu.topology import Topology
from tests.plan.models import bottleneck, single

TOPOLOGY = Topology.parse("v5e:4x4")


def test_meshes_are_all_products_and_experts_only_where_there_are_some():
    found = list(meshes(resolve(bottleneck()), TOPOLOGY))
    assert len(found) == 15  # 16 = 2^4 over three axes: C(6, 2)
    assert {prod(one.values()) for one in found} == {16}
    two = list(meshes(resolve(bottleneck()), Topology.parse("v5e:4x4", slices=2)))
    assert {one["data"] % 2 for one in two} == {0}


def test_a_batch_that_divides_over_nothing_is_refused():
    with pytest.raises(FusekitError, match="a batch of 3 divides over no mesh"):
        search(single(batch=3), Topology.parse("v5e:16x16"))


def made_up(monkeypatch, *, too_large=()):
    """A compiler that says what formulas say, and refuses room to some meshes."""
    asked, traced = [], {}

    def pricer(graph, topology, sizes, **_):
        asked.append(dict(sizes))
        remat = graph.nodes["image"].spec.remat
        if remat not in traced:
            traced[remat] = traced_step(graph, graph.experiment.train.batch)
        cost = analytic(graph, traced[remat], sizes)
        if sizes["tensor"] in too_large:
            cost = replace(cost, peak=2 * limit(topology), fits=False)
        return lambda layers: priced(layers, "compiled", cost, topology)

    monkeypatch.setattr(module, "pricer", pricer)
    return asked


def test_few_are_compiled_and_the_fastest_that_fits_is_taken(monkeypatch):
    asked = made_up(monkeypatch)
    found = search(single(batch=64), TOPOLOGY, finalists=3)
    assert len(asked) == 3
    assert found.best is found.tried[0]
    every = list(candidates_of(single(batch=64), TOPOLOGY))
    assert len(found.tried) + len(found.rest) == len(every)
    assert found.best.seconds == min(one.seconds for one in every)


def test_what_does_not_fit_is_never_taken(monkeypatch):
    made_up(monkeypatch, too_large=(1, 2, 4, 8, 16))
    found = search(single(batch=64), TOPOLOGY, finalists=2)
    assert found.best is None
    assert [one.compiled.fits for one in found.tried] == [False, False]

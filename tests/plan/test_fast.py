"""Costs of long programs from short ones, against those of the whole, by CPU's own compiler."""

import jax
import pytest

from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.plan.analytic import analytic
from fusekit.plan.compiled import Measure, measure
from fusekit.plan.fast import compilations, extrapolated, long_runs, too_many
from fusekit.plan.plan import priced as priced_as
from fusekit.plan.times import limit
from fusekit.plan.traced import traced_step
from fusekit_tpu.topology import Topology
from tests.plan.models import bottleneck, single

TOPOLOGY = Topology.parse("v5e:2x2")
FORMS = (1, 2)
"""Repeats, few enough for models of this size."""


def priced(experiment, **sizes):
    graph = resolve(experiment)
    layout = Layout.of(sizes, devices=jax.devices()[:4])

    def price(one):
        return measure(one, layout, TOPOLOGY, batch=experiment.train.batch, layers="unroll")

    return graph, price


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "sizes"),
    [
        (single(depth=12), {"fsdp": 2, "tensor": 2}),
        (bottleneck(depth=24), {"data": 4}),
        (bottleneck(depth=24), {"fsdp": 2, "tensor": 2}),
    ],
)
def test_the_whole_from_short_forms(experiment, sizes):
    graph, price = priced(experiment, **sizes)
    short, whole = extrapolated(graph, price, forms=FORMS), price(graph)
    assert short is not None
    assert short.flops == pytest.approx(whole.flops, rel=0.02)
    assert short.state == pytest.approx(whole.state, rel=1e-6)
    assert sum(short.ici.values()) == pytest.approx(sum(whole.ici.values()), rel=0.02)
    for node in experiment.encoders:
        assert short.flops_of[node] == pytest.approx(whole.flops_of[node], rel=0.02)
    assert sum(whole.flops_of.values()) == pytest.approx(whole.flops, rel=1e-6)


@pytest.mark.parametrize(("depth", "count"), [(2, 0), (71, 0), (72, 1)])
def test_only_long_runs_are_cut_where_that_leaves_a_quarter(depth, count):
    graph = resolve(single(depth=depth))
    assert len(long_runs(graph)) == count
    assert compilations(graph, "unroll") == 1 + count
    assert compilations(graph, "scan") == 1


def test_formulas_have_the_state_and_flops_of_the_compiler():
    experiment = single(depth=2)
    graph, price = priced(experiment, fsdp=2, tensor=2)
    found, due = (
        analytic(graph, traced_step(graph, 16), {"fsdp": 2, "tensor": 2}, TOPOLOGY),
        price(graph),
    )
    assert found.state == due.state
    assert found.flops == pytest.approx(due.flops, rel=0.25)
    assert set(found.ici) == {("fsdp",), ("tensor",)}


def test_what_is_carried_on_from_short_forms_must_leave_a_tenth_more():
    room = 0.94 * limit(TOPOLOGY)

    def fits(how, peak):
        return priced_as("unroll", how, Measure(peak=peak * room, fits=None), TOPOLOGY).fits

    assert fits("extrapolated", 0.89)
    assert not fits("extrapolated", 0.9)
    assert fits("analytic", 0.99)


def test_many_layers_are_not_compiled_one_by_one_to_compare():
    assert too_many(resolve(single(depth=40))) == 0
    assert too_many(resolve(single(depth=41))) == 41
    assert too_many(resolve(single(depth=72))) == 0  # short forms have 18
    assert too_many(resolve(bottleneck(depth=26))) == 52

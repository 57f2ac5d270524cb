"""Plans as a whole, their cache and the command."""

import json
from dataclasses import replace

import pytest

from fusekit.cli.main import run
from fusekit.config import dump
from fusekit.errors import LayoutError
from fusekit.plan import Cache, planned, render
from fusekit.plan import compilers as compilers_module
from fusekit.plan.analytic import analytic
from fusekit.plan.compiled import Measure
from fusekit.plan.plan import priced, sizes_of
from fusekit.plan.traced import traced_step
from fusekit_tpu.topology import Topology
from tests.plan.models import bottleneck, single
from tests.support.compilations import compilations

FOUR = Topology.parse("v5e:2x2")


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(compilers_module, "find_spec", lambda name: None)


def test_a_mesh_of_one_is_data_parallel_over_all():
    assert sizes_of(single(), FOUR)["data"] == 4
    assert sizes_of(single(mesh={"fsdp": 2, "data": -1}), FOUR)["data"] == 2
    with pytest.raises(LayoutError, match="the mesh fsdp 8 is not the 4 devices of v5e:2x2"):
        sizes_of(single(mesh={"fsdp": 8}), FOUR)


def test_without_a_compiler_it_says_so(without_compiler):
    plan = planned(bottleneck(), FOUR)
    assert plan.chosen.how == "analytic"
    assert plan.other is None
    text = render(plan)
    assert "note: by formulas alone: libtpu is not installed" in text
    assert "fits" in text


def test_modalities_add_up_and_leaving_one_out_saves(without_compiler):
    plan = planned(bottleneck(), FOUR)
    assert sum(plan.modalities.values()) == pytest.approx(plan.flops)
    assert set(plan.modalities) == {"image", "audio", "shared"}
    assert list(plan.without) == ["audio"]
    assert plan.without["audio"] < plan.flops - 0.5 * plan.modalities["audio"]


def test_the_cache_gives_back_what_it_was_given(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    found = Measure(peak=3.0, ici={("data", "fsdp"): 2.0}, flops_of={"image": 1.0}, fits=False)
    key = cache.key("program", "v5e")
    assert cache.get(key) is None
    cache.put(key, found)
    assert cache.get(key) == found
    assert cache.key("program", "v5p") != key
    with monkeypatch.context() as other:
        other.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_enable_async_collective_fusion=false")
        assert cache.key("program", "v5e") != key
    assert cache.key("program", "v5e") == key
    (tmp_path / f"{key}.json").write_text("{}[")
    assert cache.get(key) is None


def test_the_command(tmp_path, capsys, without_compiler):
    path = tmp_path / "model.yaml"
    path.write_text(dump(bottleneck()))
    assert run(["plan", str(path), "--topology", "v5e:2x2", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["topology"] == "v5e:2x2"
    assert found["chosen"]["how"] == "analytic"
    assert run(["plan", str(path), "--topology", "v5e:3x3"]) == 2
    assert "v5e has no such shape" in capsys.readouterr().err
    assert run(["plan", str(path), "--topology", "v5e:2x2", "--stage", "x"]) == 2
    assert run(["plan", str(path), "--topology", "v5e:2x2", "--search", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tried"] == []
    assert found["why"][0].startswith("by formulas alone: libtpu is not installed")
    assert found["best"]["seconds"] == min(
        one["seconds"] for one in [found["best"], *found["rest"]]
    )


def test_many_layers_one_by_one_are_not_compared_with_a_scan(monkeypatch):
    asked = []

    def pricer(graph, topology, sizes, **_):
        def price(layers):
            asked.append(layers)
            cost = analytic(graph, traced_step(graph, 16), sizes, topology)
            return priced(layers, "compiled", cost, topology)

        return price

    monkeypatch.setattr("fusekit.plan.plan.pricer", pricer)
    given = bottleneck(depth=26)
    plan = planned(given, FOUR)
    assert (asked, plan.other) == (["scan"], None)
    told = "layers one by one are not compared: 52 of them take minutes to compile, as --exact does"
    assert told in plan.notes
    assert told not in planned(given, FOUR, both=False).notes
    exact = planned(given, FOUR, exact=True)
    assert exact.other is not None
    assert asked[2:] == ["scan", "unroll"]


def test_a_real_tpu_compiler_prices_a_step(tmp_path):
    pytest.importorskip("libtpu")
    cache = Cache(tmp_path)
    with compilations() as seen:
        plan = planned(single(depth=2), FOUR, both=False, cache=cache)
    assert seen
    cost = plan.chosen.cost
    assert plan.chosen.how == "compiled"
    assert plan.chosen.fits
    assert cost.cycles > 0
    assert cost.peak >= cost.state > 0
    assert sum(cost.flops_of.values()) == pytest.approx(cost.flops)
    assert {axes for axes, size in cost.ici.items() if size > 100} == {("data",)}
    with compilations() as seen:
        again = planned(single(depth=2), FOUR, both=False, cache=cache)
    assert not seen
    assert replace(again.chosen.cost, seconds=cost.seconds) == cost

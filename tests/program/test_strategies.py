"""Every way to fuse, as a whole experiment: any mesh, any garbage, any absence."""

from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit.program import Program
from tests.support import strategies
from tests.support.compilations import compilations
from tests.support.meshes import CUBE
from tests.support.often import often
from tests.support.training import arrays, distance, gradients

ROUTED = {"data": 2, "fsdp": 2, "expert": 2}
OFTEN = ("bottleneck", "tokens", "experts")


@dataclass
class Trial:
    """One experiment on one device: its first step, compiled once."""

    name: str

    @cached_property
    def program(self):
        return Program(strategies.graph(self.name))

    @cached_property
    def start(self):
        return arrays(self.program.flat(self.program.init(0)))

    @cached_property
    def first(self):
        return self.step(self.batch(0))

    def batch(self, seed, **changes):
        return strategies.batch(self.program.graph, seed, **changes)

    def step(self, batch, program=None):
        """The whole state after the first step, by path, and its metrics."""
        program = program or self.program
        state, metrics = program.step(program.restored(self.start), batch)
        return arrays(program.flat(state)), arrays(metrics)


@pytest.fixture(scope="module", params=often(strategies.EXPERIMENTS, OFTEN))
def trial(request):
    return Trial(request.param)


def check_mesh(trial, sizes):
    program = Program(trial.program.graph, layout=Layout.of(sizes))
    state, metrics = trial.step(trial.batch(0), program)
    plain, alone = trial.first
    np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-5)
    assert distance(gradients(state), gradients(plain)) < 1e-4
    for name, value in alone.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_mesh_gives_the_loss_and_gradients_of_one_device(trial):
    check_mesh(trial, CUBE)


def test_experts_may_lie_on_different_devices(trial):
    if trial.name != "experts":
        pytest.skip("nothing here has an expert axis")
    check_mesh(trial, ROUTED)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 4, "tensor": 2}], ids=["8", "4x2"])
def test_other_meshes(trial, sizes):
    check_mesh(trial, sizes)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_what_is_absent_or_padded_changes_nothing_bit_for_bit(trial):
    for garbage in (np.nan, np.inf, 1e30):
        state, metrics = trial.step(trial.batch(0, garbage=garbage))
        assert_same(trial.first[0], state)
        assert_same(trial.first[1], metrics)


def test_what_metrics_read_has_no_garbage(trial):
    program = trial.program
    state = program.restored(trial.start)
    plain = program.evaluate(state, trial.batch(0))
    for garbage in (np.nan, np.inf, 1e30):
        found = program.evaluate(state, trial.batch(0, garbage=garbage))
        for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_anything_present_nothing_moves(trial):
    state, metrics = trial.step(trial.batch(1, present=0.0, garbage=np.nan))
    for name, value in metrics.items():
        assert value == 0.0, name
    for name, value in state.items():
        if name.startswith("params."):
            np.testing.assert_array_equal(value, trial.start[name], err_msg=name)
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), name


def test_one_compilation_whatever_is_present(trial):
    with compilations() as seen:
        for present in (0.0, 0.3, 1.0):
            _, metrics = trial.step(trial.batch(2, present=present))
            assert np.isfinite(metrics["loss"])
    assert len(seen) <= 1


def test_every_parameter_that_is_read_is_reached(trial):
    reached = gradients(trial.first[0])
    names = {n.removeprefix("params.") for n in trial.start if n.startswith("params.")}
    assert set(reached) & names
    for name in set(reached) & names:
        assert np.abs(reached[name]).max() > 0, name

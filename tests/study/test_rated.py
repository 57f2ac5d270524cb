"""A learning rate in the state does what a declared one does, and compiles once."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.study.rated import RatedProgram, unrated
from fusekit.study.spec import with_train
from fusekit.study.targets import open_split
from tests.study import tiny
from tests.support.compilations import compilations

OPTIMIZERS = [
    {"type": "adamw", "weight_decay": 0.1},
    {"type": "sgd", "momentum": 0.9},
    {"type": "lion"},
    {"type": "rmsprop"},
]


def stepped(program, state, count=3):
    pipeline = open_split(program.graph.experiment, "train", training=True)
    for _ in range(count):
        state, _ = program.step(state, next(pipeline).streams)
    pipeline.close()
    return state


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o["type"])
def test_a_factor_is_another_learning_rate(optimizer):
    declared = tiny.experiment(train={"optimizer": optimizer, "clip": 0.5})
    program = RatedProgram(fusekit.resolve(declared), steps=6)
    rated = stepped(program, program.rated(program.init(), 0.25))
    other = fusekit.compile(with_train(declared, learning_rate=0.0025), steps=6)
    plain = stepped(other, other.init())
    want = other.flat(plain)
    got = other.flat(unrated(rated))
    assert got.keys() == want.keys()
    for path, array in want.items():
        np.testing.assert_allclose(got[path], array, rtol=2e-5, atol=1e-7, err_msg=path)


def test_rates_share_one_compilation():
    program = RatedProgram(fusekit.resolve(tiny.experiment()), steps=6)
    states = [program.rated(program.init(), factor) for factor in (0.3, 1.0, 3.0)]
    with compilations() as seen:
        done = [stepped(program, state, 2) for state in states]
    assert len(seen) == 1
    first, _, last = (jax.tree.leaves(state.params)[0] for state in done)
    assert not np.allclose(first, last)


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_replicas_are_all_rated(mode):
    declared = tiny.experiment()
    program = RatedProgram(fusekit.resolve(declared), steps=6, replicas=2, mode=mode)
    state = stepped(program, program.rated(program.init(), 0.5), 2)
    alone = RatedProgram(fusekit.resolve(declared), steps=6)
    for index in range(2):
        want = stepped(alone, alone.rated(alone.init(declared.train.seed + index), 0.5), 2)
        got = program.replica(state, index)
        for a, b in zip(jax.tree.leaves(got.params), jax.tree.leaves(want.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)

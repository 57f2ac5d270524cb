"""Every hook of a transformer block, as an identity and not, however the program runs.

Trunks side by side are edited by operators of their own, and each is compared by itself: an edited
one with the same trunk unrolled on one device, an identity with a trunk that nobody edits. That an
edit does what it should there is held, against NumPy, by `tests/modules/layers/test_hooks.py`.
"""

import gc
from functools import cached_property

import jax
import numpy as np
import pytest

from fusekit.graph.schedule import Scan
from fusekit.jaxprs import equations
from fusekit.layered import HOOKS
from fusekit_modules.encoders.transformer import TransformerSpec
from tests.support import hooked
from tests.support.hooked import PLAIN, Trunk, Way, as_plain
from tests.support.hooks import PLACES
from tests.support.often import often
from tests.support.training import distance

SEEDS = (4, 5)
BATCH = hooked.batch(0)
UNROLLED = Way()

EDITED = {
    "reading": ("stream", "tokens", "keys_values", "key_value", "mask"),
    "deltas": ("norm", "weights"),
    "replace": ("replace_attention", "replace_mlp", "replace_norm"),
    "skip": ("skip_attention", "skip_mlp", "skip_norm"),
    "branches": (
        "residual_attention",
        "residual_mlp",
        "residual_norm",
        "then_attention",
        "then_mlp",
    ),
}
"""Hooks that share a trunk. Most have weights of their own there, whose gradients tell them apart;
those that have none are seen to have an effect in a trunk of their own."""

WEIGHTLESS = tuple(name for name, place in PLACES.items() if not place.weights)

STILL = ("stream", "skip_attention", "skip_mlp", "skip_norm")
"""Identities that leave the very same program."""

SAME = {"same_still": STILL, "same": tuple(name for name in PLACES if name not in STILL)}
"""Identities that share a trunk."""

SHARED = {
    PLAIN: Trunk(),
    **{name: Trunk(operators) for name, operators in EDITED.items()},
    **{name: Trunk(operators, identity=True) for name, operators in SAME.items()},
}
APART = {
    PLAIN: Trunk(),
    **{name: Trunk((name,)) for name in PLACES},
    **{f"same_{name}": Trunk((name,), identity=True) for name in PLACES},
}
DOUBTFUL = {
    name: trunk
    for name, trunk in APART.items()
    if trunk.identity or name == PLAIN or name in WEIGHTLESS
}
"""What cannot be told apart in a shared trunk."""

SKIPPED = ("skip_attention", "skip_mlp")
"""What skips the tokens whose sublayers others replace."""

EVERYTHING = {
    "everything": Trunk(tuple(name for name in PLACES if name not in SKIPPED), lockstep=True)
}

IN_TURN = "replicas-in-turn"
WAYS = {
    IN_TURN: Way(replicas="loop"),
    "scan-replicas": Way("scan", replicas="vmap"),
    "mesh-scan-remat": Way("scan", "full", mesh=True),
}
ALL_WAYS = {
    **WAYS,
    "scan": Way("scan"),
    "remat": Way(remat="full"),
    "mesh": Way(mesh=True),
    "scan-remat": Way("scan", "full"),
    "replicas": Way(replicas="vmap"),
    "scan-remat-replicas": Way("scan", "full", replicas="vmap"),
    "mesh-scan": Way("scan", mesh=True),
    "mesh-remat": Way(remat="full", mesh=True),
    "mesh-replicas": Way(mesh=True, replicas="vmap"),
    "mesh-replicas-in-turn": Way(mesh=True, replicas="loop"),
    "mesh-scan-remat-replicas": Way("scan", "full", mesh=True, replicas="vmap"),
}
OFTEN = often([IN_TURN, "scan-replicas", "mesh-scan-remat"], [IN_TURN])
LEAN = {"norm": "rms", "activation": "relu"}
"""Stacks that compile faster."""


class Trial:
    """Trunks run in one way: the first step of every seed, compiled once."""

    def __init__(self, trunks, way, **stack):
        self.trunks, self.way, self.stack = trunks, way, stack

    @cached_property
    def program(self):
        return self.way.program(hooked.graph(self.trunks, remat=self.way.remat, **self.stack))

    @cached_property
    def alone(self):
        """By seed and trunk, what a step of the seed by itself finds."""
        return hooked.alone(self.program, SEEDS, BATCH)

    @cached_property
    def found(self):
        """The same, of replicas if there are."""
        return hooked.together(self.program, SEEDS, BATCH) if self.way.replicas else self.alone


@pytest.fixture(scope="module")
def unrolled():
    """What to compare with: each seed alone, unrolled on one device."""
    return Trial(SHARED, Way(replicas="loop"), **LEAN)


@pytest.fixture(scope="module")
def trials(unrolled):
    """By way; the program to compare with is the one that runs replicas in turn."""
    own = {name: Trial(SHARED, way, **LEAN) for name, way in WAYS.items()}
    return {**own, IN_TURN: unrolled}


def trained(found):
    """The gradients of stacks and heads, under the names of the plain trunk's."""
    own = {n: v for n, v in found.gradients.items() if n.startswith(("at_", "beside_", "of_"))}
    return {as_plain(name): value for name, value in own.items()}


def assert_identity(same, plain, *, still=False):
    """An edited trunk is the plain one: bit for bit, or to rounding."""
    ours, theirs = trained(same), trained(plain)
    variables = {as_plain(name): value for name, value in same.variables.items()}
    assert plain.variables
    if still:
        np.testing.assert_array_equal(same.loss, plain.loss)
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
    np.testing.assert_allclose(same.loss, plain.loss, rtol=1e-6)
    assert distance(ours, theirs) < 1e-6
    for name, value in plain.variables.items():
        np.testing.assert_allclose(variables[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


def assert_same(found, alone, trunk):
    """A trunk and each of its operators get what they get unrolled on one device."""
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-5)
    assert distance(trained(found), trained(alone)) < 1e-4
    assert found.variables.keys() == alone.variables.keys()
    for name, value in alone.variables.items():
        np.testing.assert_allclose(found.variables[name], value, atol=1e-6, err_msg=name)
    for operator in trunk.operators:
        if PLACES[operator].weights and not trunk.identity:
            assert distance(found.of(operator), alone.of(operator)) < 1e-4, operator


def assert_effect(edited, plain, trunk):
    """A trunk is another than the plain one, and every weight of every place has its share."""
    assert abs(edited.loss - plain.loss) > 1e-4
    assert distance(trained(edited), trained(plain)) > 1e-2
    for operator in trunk.operators:
        given = edited.of(operator)
        assert len(given) == len(PLACES[operator].weights) * hooked.STACK["depth"]
        for name, value in given.items():
            assert np.abs(value).max() > 1e-5, name


def test_every_hook_has_an_operator():
    assert {place.hook for place in PLACES.values()} == {"stream", *HOOKS}
    assert TransformerSpec.hooks == set(HOOKS)
    for trunks in (EDITED, SAME):
        assert sorted(name for trunk in trunks.values() for name in trunk) == sorted(PLACES)


@pytest.mark.parametrize("way", OFTEN)
def test_programs_run_as_they_are_asked_to(way, trials):
    program = trials[way].program
    scans = sum(isinstance(item, Scan) for item in program.model.items)
    assert scans == len(SHARED) * ("scan" in way)
    places = jax.tree.leaves(program.states.shardings.params)
    assert any(not place.is_fully_replicated for place in places) == ("mesh" in way)
    assert program.vmapped == (way == "scan-replicas")


@pytest.mark.parametrize("name", SAME)
def test_identities_change_nothing_unrolled(name, unrolled):
    for found in unrolled.alone:
        assert_identity(found[name], found[PLAIN], still=name == "same_still")


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("way", OFTEN)
def test_identities_change_nothing(way, name, trials):
    for found in trials[way].found:
        assert_identity(found[name], found[PLAIN], still=name == "same_still")


@pytest.mark.parametrize("name", EDITED)
def test_edits_have_an_effect(name, unrolled):
    for found in unrolled.alone:
        assert_effect(found[name], found[PLAIN], SHARED[name])


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("way", OFTEN)
def test_each_trunk_is_what_it_is_unrolled_on_one_device(way, name, trials, unrolled):
    for found, alone in zip(trials[way].found, unrolled.alone, strict=True):
        assert_same(found[name], alone[name], SHARED[name])


def test_seeds_differ(unrolled):
    """Replicas that were mixed up would be seen."""
    one, other = unrolled.alone
    for name in SHARED:
        assert distance(trained(one[name]), trained(other[name])) > 1e-2, name


@pytest.fixture(scope="module")
def losses():
    """The losses of trunks with one operator each, unrolled, without training."""
    program = Trial(DOUBTFUL, UNROLLED, **LEAN).program
    sums = program.evaluate(hooked.blank(program, SEEDS[0]), BATCH)["losses"]
    return {name: float(sums[f"of_{name}"][0] / sums[f"of_{name}"][1]) for name in DOUBTFUL}


@pytest.mark.parametrize("name", PLACES)
def test_each_identity_alone_changes_nothing(name, losses):
    """None undoes what another does."""
    np.testing.assert_allclose(losses[f"same_{name}"], losses[PLAIN], rtol=1e-6)


@pytest.mark.parametrize("name", WEIGHTLESS)
def test_each_edit_without_weights_has_an_effect(name, losses):
    assert abs(losses[name] - losses[PLAIN]) > 1e-4


def recomputed(layers, remat):
    """How many pieces of the gradient's program are recomputed."""
    program = Trial(EVERYTHING, Way(layers, remat)).program
    params, variables = program.model.abstract()

    def gradient(params, variables, batch):
        context = program.context("train", jax.random.key(0))
        return jax.grad(lambda p: program.loss(p, variables, batch, context)[0])(params)

    jaxpr = jax.make_jaxpr(gradient)(params, variables, program.batch(BATCH))
    return sum(e.primitive.name in ("checkpoint", "remat2") for e in equations(jaxpr.jaxpr))


@pytest.mark.slow
def test_a_layer_with_edits_is_recomputed():
    """Each place is one piece, of which the backward pass keeps only what enters it; a scan has
    one for all its places."""
    assert recomputed("unroll", "none") == 0
    assert recomputed("unroll", "full") == hooked.STACK["depth"]
    assert recomputed("scan", "full") == 1


@pytest.fixture
def forgetful():
    """Programs of many trunks hold a gigabyte each: none is kept once it has been looked at."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def everything():
    return Trial(EVERYTHING, UNROLLED, dropout=0.1, drop_path=0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("way", ALL_WAYS)
def test_all_hooks_in_one_trunk_with_dropout(way, everything):
    trial = Trial(EVERYTHING, ALL_WAYS[way], **everything.stack)
    for found, alone in zip(trial.found, everything.alone, strict=True):
        assert_same(found["everything"], alone["everything"], EVERYTHING["everything"])


@pytest.fixture(scope="module")
def apart():
    return Trial(APART, UNROLLED)


def assert_apart(found):
    for name, trunk in APART.items():
        if trunk.identity:
            still = set(trunk.operators) <= set(STILL)
            assert_identity(found[name], found[PLAIN], still=still)
        elif trunk.operators:
            assert_effect(found[name], found[PLAIN], trunk)


@pytest.mark.slow
def test_each_hook_apart_unrolled(apart):
    for found in apart.alone:
        assert_apart(found)


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("way", ALL_WAYS)
def test_each_hook_apart(way, apart):
    trial = Trial(APART, ALL_WAYS[way])
    for found, alone in zip(trial.found, apart.alone, strict=True):
        assert_apart(found)
        for name, trunk in APART.items():
            assert_same(found[name], alone[name], trunk)

"""Routed experts and modality experts against float64 references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import LayerOutput
from fusekit.stream import Span, Stream, label_id, sequence
from fusekit_modules.fusion._routing import auxiliary
from fusekit_modules.fusion.experts import ExpertsSpec
from fusekit_modules.fusion.modality_experts import ModalityExpertsSpec
from tests.modules.fusion.harness import Case, check
from tests.modules.fusion.lockstep import Lockstep
from tests.reference import operators
from tests.reference.transformer import block, gelu, mlp

OWN_MLP = r"^stacks\.\d\.1\.mlp\."
SIGNATURE = {"m0": sequence(3, 4, label="a")}
SIZES = {"experts": 3, "top": 2, "hidden": 3}


@pytest.mark.parametrize(
    ("dispatch", "weights", "share"), [("ragged", "normalised", False), ("dense", "raw", True)]
)
def test_routing_is_the_brute_force_loop(dispatch, weights, share):
    spec = ExpertsSpec(**SIZES, dispatch=dispatch, weights=weights, share=share)
    name, lengths = "operator" if share else "layers.0", [3, 2]

    def feed(p):
        return lambda x: operators.experts_mlp(p, name, x, 2, normalise=weights == "normalised")

    def reference(p, xs):
        out = {f"m{k}": np.zeros((n, 4)) for k, n in enumerate(lengths)}
        for k, x in xs.items():
            x = block(p, f"stacks.{k}.0.", x)
            out[f"m{k}"][: len(x)] = block(p, f"stacks.{k}.1.", x, feed=feed(p))
        return out

    streams = [sequence(3, 4, label="a", padded=True), sequence(2, 4, label="b")]
    stacks = Lockstep(spec, depth=2, places=(1,))
    check(stacks, streams, reference, ports=("m0", "m1"), unused=OWN_MLP)


def apply(case, arrays, presence, mask, dtype=None):
    """The ports and the routed result of one place, for normalised inputs given as they are."""

    @jax.jit
    def run(parameters, arrays, presence, mask):
        module = case.merged(parameters).layers[0]
        streams = tuple(s.with_(mask=mask) for s in case.streams(arrays, presence).values())
        edits, state = module.enter(streams, {}, {}, layers=[], context=Context())
        pairs = zip(edits, streams, strict=True)
        outs = tuple(LayerOutput(edit.replace["mlp"].apply(s)) for edit, s in pairs)
        streams, state = module.leave(outs, {}, state, context=Context())
        return module.ports(state), streams

    parameters = {k: jnp.asarray(v, dtype) for k, v in case.parameters.items()}
    return run(parameters, arrays, presence, mask)


def test_balance_and_z_count_only_what_is_there():
    signature = sequence(4, 4, label="a", optional=True, padded=True)
    case = Case(Lockstep(ExpertsSpec(**SIZES), depth=1, places=(0,)), {"m0": signature})
    presence, mask = np.array([[True], [False], [True]]), np.ones((3, 4), bool)
    mask[0, 3] = mask[2, 1:] = False
    values = case.rng.normal(size=(3, 4, 4))
    valid = values[mask & presence]
    router = case.parameters["layers.0.router"]
    with jax.enable_x64(True):
        ports, _ = apply(case, {"m0": values}, presence, mask)
        dirty = np.where((mask & presence)[..., None], values, 7.0)
        again, _ = apply(case, {"m0": dirty}, presence, mask)
        none, _ = apply(case, {"m0": values}, np.zeros_like(presence), mask)
    balance, z = operators.balance_and_z(router, valid, 2)
    narrow, _ = apply(case, {"m0": values.astype("float32")}, presence, mask, "float32")
    for name, want in (("balance", balance), ("z", z)):
        np.testing.assert_allclose(ports[name].values, np.full(3, want), rtol=1e-12)
        assert narrow[name].values.dtype == jnp.float32
        np.testing.assert_allclose(narrow[name].values, np.full(3, want), rtol=1e-5)
    for name in ("balance", "z"):
        np.testing.assert_array_equal(ports[name].values, again[name].values)
        np.testing.assert_array_equal(none[name].values, np.zeros(3))
    signatures = ExpertsSpec().infer_ports((case.inputs["m0"],), {})
    assert {name: s.shape for name, s in signatures.items()} == {"balance": (), "z": ()}


def test_balance_is_one_where_all_is_even():
    """A zero router gives every expert the same probability, whoever is chosen."""
    case = Case(Lockstep(ExpertsSpec(**SIZES), depth=1, places=(0,)), SIGNATURE)
    case.parameters["layers.0.router"] *= 0
    with jax.enable_x64(True):
        ports, _ = apply(case, {"m0": case.rng.normal(size=(2, 3, 4))}, None, None)
    np.testing.assert_allclose(ports["balance"].values, 1.0)
    np.testing.assert_allclose(ports["z"].values, np.log(3) ** 2)


def test_balance_gradient_pulls_towards_the_less_used():
    """Against central differences, the assignment held where it is."""
    case = Case(Lockstep(ExpertsSpec(**SIZES), depth=1, places=(0,)), SIGNATURE)
    values = case.rng.normal(size=(2, 3, 4))
    path = "layers.0.router"

    def loss(router):
        case.parameters[path] = router
        ports, _ = apply(case, {"m0": values}, None, None)
        return ports["balance"].values[0] + ports["z"].values[0]

    start = case.parameters[path]
    direction = case.rng.normal(size=start.shape)
    with jax.enable_x64(True):
        grad = np.asarray(jax.grad(loss)(jnp.asarray(start)))
    tokens = values.reshape(-1, 4)

    def total(router):
        return sum(operators.balance_and_z(router, tokens, 2))

    want = (total(start + 1e-6 * direction) - total(start - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(grad * direction), want, rtol=1e-6)


@pytest.mark.slow
def test_vmap_over_replicas():
    spec = Lockstep(ExpertsSpec(**SIZES), depth=1, places=(0,))
    cases = [Case(spec, SIGNATURE, seed) for seed in (0, 1)]
    x = np.float32(cases[0].rng.normal(size=(2, 3, 4)))
    both = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(a, jnp.float32) for a in leaves]),
        *[case.parameters for case in cases],
    )
    streams = cases[0].streams({"m0": x}, None)
    out = jax.vmap(lambda p: cases[0].plain(p, streams, "evaluate")["m0"].values)(both)
    for index in range(2):
        alone = cases[0].call(jax.tree.map(lambda a, i=index: a[i], both), streams)
        np.testing.assert_allclose(out[index], alone["m0"].values, rtol=1e-5, atol=1e-6)


def test_experts_refuse():
    with pytest.raises(WiringError, match="more experts"):
        ExpertsSpec(experts=2, top=3).infer_edit((sequence(2, 4),), {})


def test_experts_refuse_unknown_labels():
    with pytest.raises(WiringError) as error:
        ExpertsSpec(labels=("zzz",)).infer_edit((sequence(5, 4, spans=SPANS),), {})
    assert error.value.problem.path == ("labels",)
    assert error.value.problem.expected == "a, b, c"
    ExpertsSpec(labels=("c",)).infer_edit((sequence(2, 4), sequence(5, 4, spans=SPANS)), {})


def test_nothing_routed_is_no_loss():
    assert [float(term) for term in auxiliary([], 2)] == [0.0, 0.0]


SPANS = (Span("a", 2), Span("b", 2), Span("c", 1))


@pytest.mark.parametrize("labels", [(), ("a", "c")])
def test_modality_experts(labels):
    spec = ModalityExpertsSpec(labels=labels, hidden=3)
    names = labels or ("a", "b", "c")

    def reference(p, xs):
        def feed(x):
            parts, at = [], 0
            for span in SPANS:
                part, at = x[at : at + span.size], at + span.size
                if span.label not in names:
                    parts.append(mlp(p, "stacks.0.1.mlp", part))
                    continue
                name = f"layers.0.experts.{names.index(span.label)}"
                parts.append(gelu(part @ p[f"{name}.up"]) @ p[f"{name}.down"])
            return np.concatenate(parts)

        return {"m0": block(p, "stacks.0.1.", block(p, "stacks.0.0.", xs[0]), feed=feed)}

    stacks = Lockstep(spec, depth=2, places=(1,))
    unused = "$^" if labels else OWN_MLP
    check(stacks, [sequence(5, 4, spans=SPANS)], reference, ports=("m0",), unused=unused)


def test_modality_experts_are_slices():
    """Also where a label has several spans: no sort and no gather, and a product for each label."""
    spans = (Span("a", 2), Span("b", 3), Span("a", 1), Span("c", 2))
    signature = sequence(8, 4, spans=spans)
    spec = ModalityExpertsSpec(hidden=3, labels=("a", "b"))
    case = Case(Lockstep(spec, depth=1, places=(0,)), {"m0": signature})
    module = case.merged({k: jnp.asarray(v, jnp.float32) for k, v in case.parameters.items()})
    x = np.float32(case.rng.normal(size=(2, 8, 4)))

    def call(x):
        return module.layers[0].apply(Stream(x, spans=spans)).values

    compiled = jax.jit(call).lower(jnp.asarray(x))
    out, text = call(jnp.asarray(x)), compiled.compile().as_text()
    for at, label in enumerate("aabbbacc"):
        due = np.zeros((2, 4))
        if label in "ab":
            name = f"layers.0.experts.{'ab'.index(label)}"
            hidden = gelu(x[:, at] @ case.parameters[f"{name}.up"])
            due = hidden @ case.parameters[f"{name}.down"]
        np.testing.assert_allclose(out[:, at], due, rtol=1e-4, atol=1e-5)
    assert not [word for word in (" sort(", " gather(", " scatter(") if word in text]
    assert compiled.as_text().count("stablehlo.dot_general") == 4


def test_absent_tokens_go_to_no_expert():
    """They load nobody, and get nothing."""
    signature = sequence(4, 4, label="a", optional=True, padded=True)
    case = Case(Lockstep(ExpertsSpec(**SIZES), depth=1, places=(0,)), {"m0": signature})
    presence, mask = np.array([[True], [False]]), np.array([[True, True, False, False]] * 2)
    values = np.float32(case.rng.normal(size=(2, 4, 4)))
    _, (out,) = apply(case, {"m0": values}, presence, mask, "float32")
    there = mask & presence
    assert np.all(np.asarray(out.values)[~there] == 0)
    assert np.all(np.any(np.asarray(out.values)[there] != 0, axis=-1))


def test_modality_experts_by_labels_that_vary():
    """Each sample has its own order of labels: token by token, as the spans would have it."""
    spec = ModalityExpertsSpec(hidden=3)
    signature = sequence(5, 4, spans=SPANS)
    case = Case(Lockstep(spec, depth=1, places=(0,)), {"m0": signature})
    module = case.merged({k: jnp.asarray(v, jnp.float32) for k, v in case.parameters.items()})
    x = np.float32(case.rng.normal(size=(2, 5, 4)))
    order = np.array([[0, 2, 1, 1, 0], [2, 0, 0, 1, 2]])
    ids = np.array([label_id(label) for label in "abc"])
    stream = Stream(jnp.asarray(x), label=jnp.asarray(ids[order]), spans=SPANS)
    out = module.layers[0].apply(stream).values
    for row in range(2):
        for t in range(5):
            name = f"layers.0.experts.{order[row, t]}"
            hidden = gelu(x[row, t] @ case.parameters[f"{name}.up"])
            want = hidden @ case.parameters[f"{name}.down"]
            np.testing.assert_allclose(out[row, t], want, rtol=1e-4, atol=1e-5)


def test_modality_experts_refuse_stacks_of_unequal_width():
    streams = (sequence(2, 4, label="a"), sequence(2, 8, label="b"))
    with pytest.raises(WiringError, match="differ in embed") as error:
        ModalityExpertsSpec().infer_edit(streams, {})
    assert error.value.problem.path == ("into",)


def test_modality_experts_refuse_unknown_labels():
    with pytest.raises(WiringError) as error:
        ModalityExpertsSpec(labels=("z",)).infer_edit((sequence(5, 4, spans=SPANS),), {})
    assert error.value.problem.expected == "a, b, c"

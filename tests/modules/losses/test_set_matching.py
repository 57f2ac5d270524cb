"""The assignment against scipy's, and the loss over sets against NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from fusekit.conformance.cases import Case
from fusekit.conformance.run import failures
from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.losses._assignment import assign
from fusekit_modules.losses._boxes import giou
from fusekit_modules.losses.set_matching import SetMatchingSpec
from tests.modules.losses.harness import GARBAGE, gradient, run, scalar

QUERIES, OBJECTS, CLASSES = 4, 3, 3
ROWS = np.array([True, False, True, True])
FREE = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
WANTED = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]], bool)


@pytest.mark.parametrize("shape", [(5, 8), (6, 6), (1, 3)])
@pytest.mark.parametrize("ties", [False, True])
def test_assignment_is_the_best(shape, ties):
    """Of 300 random costs, with rows and columns that do not take part; where columns are fewer
    than rows, the first rows get one."""
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(300, *shape))
    cost = np.round(2 * cost) if ties else cost
    wanted, free = rng.random((300, shape[0])) < 0.7, rng.random((300, shape[1])) < 0.8
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(assign)(cost, wanted, free))
    for c, row, column, got in zip(cost, wanted, free, found, strict=True):
        rows, columns = np.flatnonzero(row)[: column.sum()], np.flatnonzero(column)
        small = c[np.ix_(rows, columns)]
        best = small[linear_sum_assignment(small)].sum()
        assert len(set(got[rows])) == len(rows)
        assert column[got[rows]].all()
        np.testing.assert_allclose(c[rows, got[rows]].sum(), best, atol=1e-12)
        np.testing.assert_array_equal(np.delete(got, rows), -1)


def test_assignment_in_float32_and_without_anything():
    rng = np.random.default_rng(1)
    cost = rng.normal(size=(50, 4, 7)).astype("float32")
    ones = np.ones((50, 4), bool), np.ones((50, 7), bool)
    for c, got in zip(cost, np.asarray(assign(cost, *ones)), strict=True):
        best = c[linear_sum_assignment(c)].sum()
        np.testing.assert_allclose(c[np.arange(4), got].sum(), best, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(assign(cost, ones[0], ~ones[1])) == -1)


def overlap(a, b):
    """By areas of rectangles, for boxes as centre and size."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
    top, bottom = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
    both = max(right - left, 0) * max(bottom - top, 0)
    union = aw * ah + bw * bh - both
    wide = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    high = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    return both / union - (wide * high - union) / (wide * high)


def test_boxes():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 4))
    with jax.enable_x64(True):
        found = giou(jnp.asarray(a), jnp.asarray(b))
        same = giou(jnp.asarray(a), jnp.asarray(a))
    np.testing.assert_allclose(found, [overlap(*p) for p in zip(a, b, strict=True)], rtol=1e-12)
    np.testing.assert_allclose(same, 1, rtol=1e-12)
    flat = jnp.asarray([0.5, 0.5, 0.0, 0.0])
    assert np.all(np.isfinite(jax.grad(lambda x: giou(x, flat))(flat)))
    assert float(giou(flat, flat)) == 0


def spec(**fields):
    names = {"prediction": "head", "target": "batch.objects"}
    return SetMatchingSpec(**{**names, **fields})


def signatures(form="softmax", *, boxes=True, optional=False):
    more = 1 if form == "softmax" else 0
    found = {
        "prediction": sequence(QUERIES, CLASSES + more, label="q", padded=True, optional=optional),
        "target": Signature(
            (("time", OBJECTS),),
            "int",
            (Span("o", OBJECTS),),
            classes=CLASSES,
            padded=True,
            optional=optional,
        ),
    }
    if boxes:
        found["boxes"] = sequence(QUERIES, 4, label="q", padded=True, optional=optional)
        found["target_boxes"] = sequence(OBJECTS, 4, label="o", padded=True, optional=optional)
    return found


def drawn(form="softmax"):
    rng, more = np.random.default_rng(4), 1 if form == "softmax" else 0
    return {
        "prediction": rng.normal(size=(4, QUERIES, CLASSES + more)),
        "target": rng.integers(0, CLASSES, (4, OBJECTS)).astype("int32"),
        "boxes": rng.random((4, QUERIES, 4)),
        "target_boxes": rng.random((4, OBJECTS, 4)),
    }


def streams_of(values, garbage=None):
    masks = {"prediction": FREE, "boxes": FREE, "target": WANTED, "target_boxes": WANTED}
    found = {}
    for name, value in values.items():
        if garbage is not None and value.dtype.kind == "f":
            there = masks[name] & ROWS[:, None]
            value = jnp.where(there[..., None], value, jnp.asarray(garbage, value.dtype))
        found[name] = Stream(jnp.asarray(value), jnp.asarray(masks[name]))
    return found


def plain(values, form, boxes, no_object=0.1, l1=5.0, weight=2.0):
    """By trying every matching; rows that do not count are left out."""
    rows = []
    for b in np.flatnonzero(ROWS):
        asked, objects = np.flatnonzero(FREE[b]), np.flatnonzero(WANTED[b])
        logits, classes = values["prediction"][b], values["target"][b]
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        if form == "sigmoid":
            share = 1 / (1 + np.exp(-logits))

        apart, cost = np.zeros((OBJECTS, QUERIES)), np.zeros((OBJECTS, QUERIES))
        for o, q in itertools.product(objects, asked):
            if boxes:
                ours, theirs = values["target_boxes"][b, o], values["boxes"][b, q]
                distance = np.abs(ours - theirs).sum()
                apart[o, q] = l1 * distance + weight * (1 - overlap(ours, theirs))
            cost[o, q] = apart[o, q] - share[q, classes[o]]
        match = min(
            itertools.permutations(asked, len(objects)),
            key=lambda m, cost=cost, objects=objects: sum(cost[objects, list(m)]),
        )
        label = dict(zip(match, classes[objects], strict=True))
        total = mass = 0.0
        for q in asked:
            w = 1.0 if q in label else no_object
            if form == "softmax":
                each = -np.log(share[q, label.get(q, CLASSES)])
            else:
                hot = np.eye(CLASSES)[label[q]] if q in label else np.zeros(CLASSES)
                each = -np.sum(hot * np.log(share[q]) + (1 - hot) * np.log(1 - share[q]))
            total, mass = total + w * each, mass + w
        row = total / mass
        if boxes and len(objects):
            row += apart[objects, list(match)].mean()
        rows.append(row)
    return np.mean(rows)


@pytest.mark.parametrize(("form", "boxes"), [("softmax", True), ("sigmoid", False)])
def test_against_every_matching(form, boxes):
    values, inputs = drawn(form), signatures(form, boxes=boxes)
    values = {name: values[name] for name in inputs}
    refs = {"boxes": "boxes", "target_boxes": "batch.boxes"} if boxes else {}
    chosen = spec(form=form, **refs)
    with jax.enable_x64(True):
        for role in ("prediction", "boxes") if boxes else ("prediction",):

            @jax.jit
            def loss(given, role=role):
                streams = streams_of(values)
                streams[role] = streams[role].with_(values=given)
                return scalar(run(chosen, inputs, streams, ROWS))

            def reference(given, role=role):
                return plain({**values, role: given}, form, boxes)

            grad = gradient(loss, values[role], reference)
            assert not np.any(grad[~FREE])
    narrow = {n: v.astype("float32") if v.dtype.kind == "f" else v for n, v in values.items()}
    found = scalar(run(chosen, inputs, streams_of(narrow), ROWS))
    np.testing.assert_allclose(found, plain(values, form, boxes), rtol=1e-5)


def test_what_does_not_count_is_not_read():
    values = {n: v.astype("float32") if v.dtype.kind == "f" else v for n, v in drawn().items()}
    chosen = spec(boxes="boxes", target_boxes="batch.boxes")

    @jax.jit
    def outcome(garbage):
        def loss(given):
            streams = streams_of({**values, **given}, garbage)
            return scalar(run(chosen, signatures(), streams, ROWS))

        return jax.value_and_grad(loss)({n: values[n] for n in ("prediction", "boxes")})

    first = jax.tree.leaves(outcome(0.0))
    for garbage in GARBAGE:
        for a, b in zip(first, jax.tree.leaves(outcome(garbage)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_laws(form):
    inputs = signatures(form, optional=True)
    chosen = spec(form=form, boxes="boxes", target_boxes="batch.boxes")
    assert not list(failures(Case(chosen, inputs, "sets")))


@pytest.mark.parametrize(
    ("fields", "changes", "field"),
    [
        ({}, {"prediction": vector(4)}, "prediction"),
        ({}, {"prediction": sequence(QUERIES, CLASSES)}, "target"),
        ({}, {"prediction": sequence(2, CLASSES + 1)}, "target"),
        ({}, {"target": Signature((), "int", classes=CLASSES)}, "target"),
        ({"target_boxes": "b"}, {}, "boxes"),
        ({"boxes": "a", "target_boxes": "b"}, {"boxes": sequence(QUERIES, 3)}, "boxes"),
        ({"boxes": "a", "target_boxes": "b"}, {"target_boxes": sequence(2, 4)}, "target_boxes"),
    ],
)
def test_misfits(fields, changes, field):
    with pytest.raises(WiringError) as error:
        spec(**fields).check({**signatures(boxes=len(fields) == 2), **changes})
    assert error.value.problem.path == (field,)

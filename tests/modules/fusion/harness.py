"""Holds a fusion against a NumPy reference that knows one sample and its present inputs only.

The batch has one row for each absence pattern, so one comparison covers all of them; padded inputs
have rows of every length, too. A reference is `f(p, xs) -> array | dict`, with the parameters by
path and the present inputs by index, their padding cut off; what it gives of padding is zeros.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.context import Context
from fusekit.stream import Signature, Stream

Arrays = dict[str, np.ndarray]
Reference = Callable[[Arrays, dict[int, np.ndarray]], Any]
GARBAGE = (np.nan, np.inf, 1e30)
NOISE = 1e-8
"""A gradient this much smaller than the largest is rounding: nothing depends on the parameter."""
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiling costs more than running here."""


def flat(state: Any) -> dict[str, Any]:
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def by_port(out: Any) -> dict[str, Any]:
    return out if isinstance(out, dict) else {"out": out}


class Case:
    """A fusion with random parameters, run in the float type that is asked for."""

    def __init__(self, spec: Any, inputs: Mapping[str, Signature], seed: int = 0):
        self.spec, self.inputs = spec, dict(inputs)
        module = spec.build(self.inputs, rngs=nnx.Rngs(seed))
        self.graph, params, self.rest = nnx.split(module, nnx.Param, ...)
        self.shapes = params
        self.rng = np.random.default_rng(seed)
        self.masks: dict[str, np.ndarray] = {}
        """Of padded inputs `[b, t]`; valid tokens lead."""
        self.parameters = {
            path: self.rng.normal(size=leaf.shape) * 0.5 for path, leaf in flat(params).items()
        }

    def merged(self, parameters: Mapping[str, Any]) -> Any:
        leaves = [
            (path, leaf.replace(parameters[".".join(map(str, path))]))
            for path, leaf in nnx.to_flat_state(self.shapes)
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(leaves), self.rest)

    def plain(self, parameters: Any, streams: Any, mode: str) -> Any:
        streams = {role: streams[role] for role in self.inputs}
        context = Context(mode=mode, key=jax.random.key(0), path="node")  # pyright: ignore
        return self.merged(parameters)(streams, context=context)

    @partial(jax.jit, static_argnums=(0, 3), compiler_options=QUICK)
    def call(self, parameters: Any, streams: Any, mode: str = "evaluate") -> Any:
        return self.plain(parameters, streams, mode)

    def streams(self, arrays: Arrays, presence: np.ndarray | None) -> dict[str, Stream]:
        out = {}
        for index, (role, signature) in enumerate(self.inputs.items()):
            given = presence if signature.optional else None
            present = None if given is None else jnp.asarray(given[:, index])
            mask = jnp.asarray(self.masks[role]) if role in self.masks else None
            values = jnp.asarray(arrays[role])
            out[role] = Stream(values, mask, present, spans=signature.spans)
        return out

    def valid(self, role: str, array: np.ndarray, presence: np.ndarray) -> np.ndarray:
        """What is neither padded nor absent of an input, `[b, t]` or `[b]`, to broadcast."""
        index = list(self.inputs).index(role)
        there = presence[:, index].reshape(-1, *(1,) * (array.ndim - 1))
        return there & self.masks[role][..., None] if role in self.masks else there

    def run(self, arrays: Arrays, presence: np.ndarray | None, dtype: str = "float64") -> Any:
        with jax.enable_x64(True):
            cast = {role: array.astype(dtype) for role, array in arrays.items()}
            parameters = {path: jnp.asarray(a, dtype) for path, a in self.parameters.items()}
            return by_port(self.call(parameters, self.streams(cast, presence)))

    @partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def differentiate(self, parameters: Any, arrays: Any, presence: Any, weights: Any) -> Any:
        def total(parameters: Any, arrays: Any) -> Any:
            out = by_port(self.plain(parameters, self.streams(arrays, presence), "evaluate"))
            return sum(jnp.sum(out[port].values * weight) for port, weight in weights.items())

        return jax.grad(total, argnums=(0, 1))(parameters, arrays)

    def gradients(self, arrays: Arrays, presence: Any, weights: Arrays) -> tuple[Arrays, Arrays]:
        """Of sum(out * weights), by parameter and by input."""
        with jax.enable_x64(True):
            as_jax = partial(jax.tree.map, lambda a: jnp.asarray(a, "float64"))
            given = as_jax(self.parameters), as_jax(arrays), jnp.asarray(presence), as_jax(weights)
            return jax.tree.map(np.asarray, self.differentiate(*given))


def patterns(count: int) -> np.ndarray:
    """`[2^count, count]`: every way of being present, the fullest first."""
    return np.array(list(product([True, False], repeat=count)))


def pad(case: Case, batch: int) -> None:
    """Gives padded inputs masks; the first row of each is whole."""
    for role, signature in case.inputs.items():
        if signature.padded:
            counts = 1 + (np.arange(batch) + len(case.masks) + signature.length - 1) % (
                signature.length
            )
            counts[0] = signature.length
            case.masks[role] = np.arange(signature.length) < counts[:, None]


def filled(x: np.ndarray | None, length: int, width: int) -> np.ndarray:
    """Zeros `[length, width]`, with tokens in front if there are any."""
    out = np.zeros((length, width))
    if x is not None:
        out[: len(x)] = x
    return out


def expected(
    reference: Reference,
    p: Arrays,
    arrays: Arrays,
    presence: np.ndarray,
    ports: Any,
    masks: Mapping[str, np.ndarray],
):
    """The reference row by row; zeros where nothing is present."""
    rows = []
    for b, present in enumerate(presence):
        xs = {}
        for k, (role, column) in enumerate(arrays.items()):
            if present[k]:
                xs[k] = column[b][masks[role][b]] if role in masks else column[b]
        rows.append(by_port(reference(p, xs)) if xs else None)
    full = next(row for row in rows if row is not None)
    zeros = {port: np.zeros_like(np.asarray(full[port], "float64")) for port in ports}
    return {port: np.stack([(row or zeros)[port] for row in rows]) for port in ports}


def inputs_of(case: Case, batch: int) -> Arrays:
    return {
        role: case.rng.normal(size=(batch, *signature.shape))
        for role, signature in case.inputs.items()
    }


def check(
    spec: Any, widths: Any, reference: Reference, *, ports: Any = ("out",), unused: str = "$^"
) -> Case:
    """Values, gradients, every absence pattern, inertness and signatures of a fusion.

    Parameters whose path matches the pattern `unused` need no gradient. Inputs are numbers, widths
    of vectors, or signatures; where these are padded, padding is tried as absence is.
    """
    sizes = {f"m{i}": width for i, width in enumerate(widths)}
    inputs = {
        role: width.with_(optional=True)
        if isinstance(width, Signature)
        else Signature((("embed", width),), optional=True)
        for role, width in sizes.items()
    }
    case = Case(spec, inputs)
    presence = patterns(len(inputs))
    arrays = inputs_of(case, len(presence))
    pad(case, len(presence))
    compare_values(case, arrays, presence, reference, ports)
    compare_gradients(case, arrays, presence, reference, ports, unused)
    compare_garbage(case, arrays, presence, ports)
    compare_signatures(case, arrays, presence)
    always = Case(spec, {role: s.with_(optional=False) for role, s in inputs.items()}, seed=1)
    always.masks = case.masks
    compare_signatures(always, arrays, None)
    everyone = np.ones_like(presence)
    want = expected(reference, always.parameters, arrays, everyone, ports, case.masks)
    got = always.run(arrays, None)
    for port in ports:
        np.testing.assert_allclose(got[port].values, want[port], rtol=1e-10, atol=1e-10)
    return case


def compare_values(case: Case, arrays: Arrays, presence: Any, reference: Reference, ports: Any):
    want = expected(reference, case.parameters, arrays, presence, ports, case.masks)
    wide, narrow = case.run(arrays, presence), case.run(arrays, presence, "float32")
    for port in ports:
        np.testing.assert_allclose(wide[port].values, want[port], rtol=1e-10, atol=1e-10)
        own = list(case.inputs).index(port) if port in case.inputs else None
        there = presence.any(axis=1) if own is None else presence[:, own]
        np.testing.assert_array_equal(wide[port].presence, there)
        assert narrow[port].values.dtype == jnp.float32
        error = np.linalg.norm(narrow[port].values - want[port])
        assert error <= 1e-5 * max(np.linalg.norm(want[port]), 1e-3), (port, error)


def compare_gradients(
    case: Case, arrays: Arrays, presence: Any, reference: Reference, ports: Any, unused: str
):
    """Each leaf along a random direction, against central differences of the reference."""
    out = case.run(arrays, presence)
    weights = {port: case.rng.normal(size=out[port].values.shape) for port in ports}
    by_parameter, by_input = case.gradients(arrays, presence, weights)

    def total(p: Arrays, xs: Arrays) -> float:
        want = expected(reference, p, xs, presence, ports, case.masks)
        return float(sum(np.sum(want[port] * weights[port]) for port in ports))

    step, largest = 1e-5, max(map(np.linalg.norm, [*by_parameter.values(), *by_input.values()]))
    for leaves, grads, other in (
        (case.parameters, by_parameter, lambda leaf: total(leaf, arrays)),
        (arrays, by_input, lambda leaf: total(case.parameters, leaf)),
    ):
        for name, leaf in leaves.items():
            direction = case.rng.normal(size=leaf.shape)
            ahead = other({**leaves, name: leaf + step * direction})
            behind = other({**leaves, name: leaf - step * direction})
            want, got = (ahead - behind) / (2 * step), np.sum(grads[name] * direction)
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7, err_msg=name)
            reached = np.linalg.norm(grads[name]) > NOISE * largest
            assert reached or re.search(unused, name), f"{name} has no gradient"


def compare_garbage(case: Case, arrays: Arrays, presence: Any, ports: Any):
    """What stands in the absent and in padding must not show, in values or in gradients."""
    reference, gradient = None, None
    for garbage in GARBAGE:
        dirty = {}
        for role, array in arrays.items():
            dirty[role] = np.where(case.valid(role, array, presence), array, garbage)
        out = case.run(dirty, presence)
        weights = {port: np.ones(out[port].values.shape) for port in ports}
        found = jax.tree.leaves(out)
        grads = jax.tree.leaves(case.gradients(dirty, presence, weights))
        assert all(np.all(np.isfinite(leaf)) for leaf in [*found, *grads])
        if reference is not None and gradient is not None:
            for a, b in zip([*reference, *gradient], [*found, *grads], strict=True):
                np.testing.assert_array_equal(a, b)
        reference, gradient = found, grads


def compare_signatures(case: Case, arrays: Arrays, presence: Any):
    """`infer` says what comes out, ports, masks and presence included."""
    signatures, out = by_port(case.spec.infer(case.inputs)), case.run(arrays, presence)
    assert sorted(signatures) == sorted(out)  # jit sorts them
    for port, signature in signatures.items():
        assert signature.shape == out[port].values.shape[1:], port
        assert signature.optional == (out[port].presence is not None), port
        assert signature.padded == (out[port].mask is not None), port
        assert signature.spans == out[port].spans, port
    for path, leaf in flat(case.shapes).items():
        assert len(leaf.get_metadata()["axes"]) == leaf.ndim, path

"""The checks: each takes a case and raises `BrokenError` if a law does not hold.

They hold the invariants of one component on one device; meshes, scans and replicas are laws of the
program and are tested on whole experiments.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.component import LossSpec, LossValue, NodeSpec
from fusekit.conformance.cases import Case
from fusekit.conformance.laws import NOISE, BrokenError, dead, finite, quick, same
from fusekit.context import Context, Mode
from fusekit.graph.packing import step_name
from fusekit.standalone import standalone
from fusekit.stream import Signature, Stream


class Trial:
    """A case built: its parameters, and a compiled call."""

    def __init__(self, case: Case, *, seed: int = 0):
        self.case = case
        spec = case.spec
        rngs = nnx.Rngs(seed)
        if isinstance(spec, LossSpec):
            self.module = spec.build(case.inputs, rngs=rngs)
        elif isinstance(spec, NodeSpec):
            self.module = standalone(spec, case.inputs, rngs=rngs)
        self.graphdef, self.states = nnx.split(self.module)
        _, params, variables = nnx.split(self.module, nnx.Param, ...)
        self.params = nnx.to_pure_dict(params)
        self.variables = nnx.to_pure_dict(variables)
        self._compiled: dict[Mode, Any] = {}

    def call(self, mode: Mode, params: Any, variables: Any, streams: Mapping[str, Stream]) -> Any:
        """Outputs and the variables afterwards."""
        module = nnx.merge(self.graphdef, nnx.State(params), nnx.State(variables))
        key = jax.random.key(7) if mode == "train" else None
        context = Context(mode=mode, key=key, path="it")
        if isinstance(self.case.spec, LossSpec):
            rows = jnp.ones((next(iter(streams.values())).batch,), bool)
            for stream in streams.values():
                rows = rows if stream.presence is None else rows & stream.presence
            out = module(dict(streams), rows=rows, context=context)  # pyright: ignore
        else:
            out = module(dict(streams), context=context)  # pyright: ignore
        return out, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))

    def __call__(self, streams: Mapping[str, Stream], mode: Mode = "evaluate") -> Any:
        """The compiled call, on the initial parameters."""
        if mode not in self._compiled:
            self._compiled[mode] = quick(lambda p, v, s: self.call(mode, p, v, s))
        return self._compiled[mode](self.params, self.variables, dict(streams))

    def gradients(self, streams: Mapping[str, Stream], params: Any = None) -> Any:
        """Gradients of a fixed random projection of the outputs, in training."""
        params = self.params if params is None else params
        if not jax.tree.leaves(params):
            return params
        return self._gradient(params, self.variables, dict(streams))

    def precise(self, streams: Mapping[str, Stream], params: Any) -> Any:
        """The gradients in float64."""

        def double(leaf: Any) -> Any:
            real = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.asarray(np.asarray(leaf), jnp.float64) if real else leaf

        with jax.enable_x64(True):
            given = jax.tree.map(double, (params, self.variables, dict(streams)))
            return jax.tree.map(np.asarray, self._gradient(*given))

    @cached_property
    def _gradient(self) -> Any:
        def scalar(params: Any, variables: Any, streams: Any) -> Any:
            out, _ = self.call("train", params, variables, streams)
            return sum(jnp.sum(leaf * weights(leaf)) for leaf in floats(out))

        return quick(jax.grad(scalar))


DOUBTFUL = 1e-5
"""Share of the largest gradient below which rounding of float32 could be all of it."""


def weights(leaf: Any) -> Any:
    """Fixed random weights of an array's shape."""
    return np.random.default_rng(leaf.size).normal(size=leaf.shape).astype("float32")


def floats(out: Any) -> list[Any]:
    """The values of all outputs that can have a gradient."""
    if isinstance(out, LossValue):
        return [out.total]
    streams = out.values() if isinstance(out, dict) else [out]
    return [s.values for s in streams if jnp.issubdtype(s.values.dtype, jnp.floating)]


def check_infer(trial: Trial) -> None:
    """What `infer` says is what `jax.eval_shape` finds."""
    if not isinstance(trial.case.spec, NodeSpec):
        return
    declared = trial.case.spec.infer(trial.case.inputs)
    out, _ = jax.eval_shape(
        lambda p, v, s: trial.call("evaluate", p, v, s),
        trial.params,
        trial.variables,
        trial.case.streams(0),
    )
    declared = declared if isinstance(declared, dict) else {"out": declared}
    out = out if isinstance(out, dict) else {"out": out}
    if set(declared) != set(out):
        raise BrokenError(f"infer gives ports {sorted(declared)}, the module {sorted(out)}")
    for port, signature in declared.items():
        _fits_signature(port, signature, out[port])


def _fits_signature(port: str, signature: Signature, stream: Stream) -> None:
    shape = (stream.values.shape[0], *signature.shape)
    if stream.values.shape != shape:
        raise BrokenError(f"{port}: infer says {shape}, the module gives {stream.values.shape}")
    kind = {"float": jnp.floating, "int": jnp.integer, "bool": jnp.bool_}[signature.dtype]
    if not jnp.issubdtype(stream.values.dtype, kind):
        raise BrokenError(f"{port}: infer says {signature.dtype}, got {stream.values.dtype}")
    if (stream.presence is not None) != signature.optional:
        raise BrokenError(f"{port}: optional is {signature.optional}, but presence says otherwise")
    if (stream.mask is not None) != signature.padded:
        raise BrokenError(f"{port}: padded is {signature.padded}, but the mask says otherwise")
    if signature.kind == "sequence" and sum(s.size for s in signature.spans) != signature.length:
        raise BrokenError(f"{port}: the spans do not add up to the time {signature.length}")
    if signature.kind == "sequence" and tuple(stream.spans) != signature.spans:
        raise BrokenError(f"{port}: infer and the module disagree on the spans")


def check_axes(trial: Trial) -> None:
    """Every parameter and variable has a logical axis name, or None, for each of its axes."""
    for path, leaf in nnx.to_flat_state(trial.states):
        axes = leaf.get_metadata().get("axes")
        if axes is None or len(axes) != leaf.ndim:
            raise BrokenError(f"{'.'.join(map(str, path))} has axes {axes}, shape {leaf.shape}")


def check_round_trip(trial: Trial) -> None:
    """The spec survives a round trip through plain data."""
    dumped = trial.case.spec.model_dump(mode="json")
    if type(trial.case.spec).model_validate(dumped) != trial.case.spec:
        raise BrokenError("the spec does not survive a round trip")


def check_contents(trial: Trial) -> None:
    """What stands in absent samples and padded positions changes nothing, bit for bit."""
    for mode in ("evaluate", "train"):
        clean = trial(trial.case.streams(1, garbage=0.0), mode)
        for garbage in (np.nan, np.inf, 1e30):
            same(
                clean,
                trial(trial.case.streams(1, garbage=garbage), mode),
                f"{garbage} in what is absent or padded changes the result ({mode})",
            )
    reference = trial.gradients(trial.case.streams(1, garbage=0.0))
    same(
        reference,
        trial.gradients(trial.case.streams(1, garbage=np.nan)),
        "nan in what is absent or padded changes a gradient",
    )


def check_independence(trial: Trial) -> None:
    """A sample's result does not depend on the other samples, where `couples` says so."""
    if trial.case.spec.couples == "always":
        return
    modes: list[Mode] = (
        ["evaluate"] if trial.case.spec.couples == "train" else ["evaluate", "train"]
    )
    for mode in modes:
        one, _ = trial(trial.case.streams(1), mode)
        mixed = {
            role: jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), s, other)
            for (role, s), other in zip(
                trial.case.streams(1).items(), trial.case.streams(2).values(), strict=True
            )
        }
        two, _ = trial(mixed, mode)
        same(
            jax.tree.map(lambda leaf: leaf[:1], one),
            jax.tree.map(lambda leaf: leaf[:1], two),
            f"another sample changes the result ({mode})",
        )


def check_all_absent(trial: Trial) -> None:
    """With everything optional absent, results and gradients are finite."""
    streams = trial.case.streams(3, garbage=np.nan, present=0.0)
    for mode in ("evaluate", "train"):
        finite(trial(streams, mode), f"a result with all inputs absent ({mode})")
    finite(trial.gradients(streams), "a gradient with all inputs absent")


def check_reachable(trial: Trial) -> None:
    """Every parameter gets a gradient at random parameters within 8 batches, one that is more than
    rounding. Those whose gradient is small in float32 are tried in float64."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype("float32"), trial.params
    )
    for gradients, noise in ((trial.gradients, DOUBTFUL), (trial.precise, NOISE)):
        unreached = set(_by_name(params))
        for seed in range(8):
            grads = gradients(trial.case.streams(seed + 10), params)
            unreached &= dead(_by_name(grads), noise)
            if not unreached:
                return
    raise BrokenError(f"no gradient reaches {', '.join(sorted(unreached))}")


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(map(step_name, path)): leaf for path, leaf in leaves}


COMPILED = ("contents", "independence", "all_absent", "reachable")
"""The checks that compile the component, which `light` cases leave out."""

CHECKS: dict[str, Callable[[Trial], None]] = {
    "infer": check_infer,
    "axes": check_axes,
    "round_trip": check_round_trip,
    "contents": check_contents,
    "independence": check_independence,
    "all_absent": check_all_absent,
    "reachable": check_reachable,
}

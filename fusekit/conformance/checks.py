"""The checks: each takes a case and raises `BrokenError` if a law does not hold.

They hold the invariants of one component on one device; meshes, scans and replicas are laws of the
program and are tested on whole experiments.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.component import Component, LossSpec, NodeSpec
from fusekit.conformance.cases import BATCH
from fusekit.conformance.laws import NOISE, BrokenError, apart, dead, finite, same, zero
from fusekit.conformance.padding import lengthened, parts, transplanted
from fusekit.conformance.trial import KEY, Trial
from fusekit.context import Mode
from fusekit.graph.packing import step_name
from fusekit.stream import Signature, Stream

DOUBTFUL = 1e-5
"""Share of the largest gradient below which rounding of float32 could be all of it."""


def check_infer(trial: Trial) -> None:
    """What `infer` says is what `jax.eval_shape` finds."""
    if not isinstance(trial.case.spec, NodeSpec):
        return
    declared = trial.case.spec.infer(trial.case.inputs)
    out, _ = jax.eval_shape(
        lambda *given: trial.call("evaluate", *given),
        trial.params,
        trial.variables,
        trial.case.streams(0),
        np.ones(BATCH, bool),
        jax.random.key(0),
    )
    declared = declared if isinstance(declared, dict) else {"out": declared}
    out = out if isinstance(out, dict) else {"out": out}
    if set(declared) != set(out):
        raise BrokenError(f"infer gives ports {sorted(declared)}, the module {sorted(out)}")
    for port, signature in declared.items():
        fits_signature(port, signature, out[port])


def fits_signature(port: str, signature: Signature, stream: Stream) -> None:
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
    named_axes(trial.states, "")


def named_axes(states: Any, prefix: str) -> None:
    """Raises `BrokenError` for a parameter or variable without the names of its axes."""
    for path, leaf in nnx.to_flat_state(states):
        axes = leaf.get_metadata().get("axes")
        if axes is None or len(axes) != len(leaf.shape):
            name = ".".join(map(str, (prefix, *path) if prefix else path))
            raise BrokenError(f"{name} has axes {axes}, shape {leaf.shape}")


def check_round_trip(trial: Trial) -> None:
    """The spec survives a round trip through plain data."""
    round_trip(trial.case.spec)


def round_trip(spec: Component) -> None:
    """Raises `BrokenError` if plain data does not hold all of a spec."""
    if type(spec).model_validate(spec.model_dump(mode="json")) != spec:
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
    """A sample's result does not depend on the other samples, where `coupling` says so."""
    coupling = trial.case.spec.coupling()
    if coupling == "always":
        return
    modes: list[Mode] = ["evaluate"] if coupling == "train" else ["evaluate", "train"]
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
    """With everything optional absent, results are finite, and gradients zero where nothing is
    there at all."""
    streams = trial.case.streams(3, garbage=np.nan, present=0.0)
    for mode in ("evaluate", "train"):
        finite(trial(streams, mode), f"a result with all inputs absent ({mode})")
    gradients = trial.gradients(streams)
    finite(gradients, "a gradient with all inputs absent")
    if all(signature.optional for signature in trial.case.inputs.values()):
        zero(gradients, "with all inputs absent")


def check_rows(trial: Trial) -> None:
    """What a loss reads in rows that do not count changes nothing, and they have no weight; without
    any row that counts, the loss and its gradient are zero."""
    if not isinstance(trial.case.spec, LossSpec):
        return
    one, two = trial.case.streams(1), trial.case.streams(2)
    valid = np.asarray([True, False] * (BATCH // 2))
    mixed = {
        role: jax.tree.map(
            lambda a, b: np.where(valid.reshape((-1,) + (1,) * (np.ndim(a) - 1)), a, b),
            stream.with_(presence=None),
            two[role].with_(presence=None),
        ).with_(presence=stream.presence)
        for role, stream in one.items()
    }
    for mode in ("evaluate", "train"):
        (found, _), (other, _) = trial(one, mode, valid=valid), trial(mixed, mode, valid=valid)
        same(found, other, f"a row that does not count changes the loss ({mode})")
        if np.any(np.asarray(found.weight)[~valid]) or np.any(np.asarray(found.total)[~valid]):
            raise BrokenError(f"a row that does not count has a weight or a total ({mode})")
    nothing = np.zeros(BATCH, bool)
    zero(trial(one, "train", valid=nothing)[0], "of a loss without any row that counts")
    zero(trial.gradients(one, valid=nothing), "of a loss without any row that counts")


def check_randomness(trial: Trial) -> None:
    """What differs between training and evaluation is random, of the context's key: another key
    gives another result. (Statistics of the batch may differ too: those couple samples.)"""
    if trial.case.spec.coupling() != "none":
        return
    streams = trial.case.streams(1)
    (plain, _), (one, _) = trial(streams), trial(streams, "train")
    if apart(plain, one) > 1e-3 and apart(one, trial(streams, "train", key=KEY + 1)[0]) == 0.0:
        raise BrokenError("training differs from evaluation, but not by the context's key")


def check_padding(trial: Trial) -> None:
    """More padding at the end changes results by rounding alone."""
    case = trial.case.longer(3)
    if case is None:
        return
    longer = Trial(case)
    params = transplanted(trial.params, longer.params)
    if params is None:
        return
    streams = trial.case.streams(1)
    more = {role: lengthened(s, case.inputs[role]) for role, s in streams.items()}
    (short, _), (long, _) = trial(streams), longer(more, params=params)
    gap = apart(parts(short), parts(long))
    if gap > 1e-5:
        raise BrokenError(f"more padding changes the result by {gap:.3g}")


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


COMPILED = (
    "contents",
    "independence",
    "rows",
    "randomness",
    "padding",
    "all_absent",
    "reachable",
)
"""The checks that compile the component, which `light` cases leave out."""

CHECKS: dict[str, Callable[[Trial], None]] = {
    "infer": check_infer,
    "axes": check_axes,
    "round_trip": check_round_trip,
    "contents": check_contents,
    "independence": check_independence,
    "rows": check_rows,
    "randomness": check_randomness,
    "padding": check_padding,
    "all_absent": check_all_absent,
    "reachable": check_reachable,
}

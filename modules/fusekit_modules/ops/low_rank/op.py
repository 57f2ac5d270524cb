"""The low-rank product: what each backend makes of it, chosen for both passes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import jax
from jaxtyping import Array, Float

from fusekit.layout import Layout
from fusekit_modules.ops.dispatch import Choice, Reason, choose
from fusekit_modules.ops.low_rank import gpu, reference, tpu, xla
from fusekit_modules.ops.low_rank.form import Factor, Given, given_of
from fusekit_modules.ops.low_rank.shards import Shards
from fusekit_modules.ops.target import Target

_FORWARD: Mapping[str, ModuleType] = {"gpu": gpu, "tpu": tpu, "xla": xla, "reference": reference}
"""Best first."""
_BACKWARD: Mapping[str, ModuleType] = {"xla": xla, "reference": reference}
"""No kernel: the gradient by weights would be summed in memory between its tiles."""
_KERNELS = ("gpu", "tpu")


@dataclass(frozen=True)
class Run:
    """The backends of the two passes, what for, and how a mesh cuts them."""

    forward: Choice
    backward: Choice
    target: Target
    shards: Shards | None = None


def low_rank(
    vectors: Sequence[Float[Array, "b d"]],
    factors: Sequence[Factor],
    mix: Float[Array, "rank"],
    bias: Float[Array, "out"],
    *,
    target: Target,
    backend: str = "auto",
    backward: str = "auto",
    layout: Layout | None = None,
) -> Float[Array, "b out"]:
    """y = sum_r w_r prod_k (a_kr + x_k W_kr) + b: low-rank multimodal fusion (Liu et al. 2018,
    equation 6), in which a_kr is the row of the factor that the constant 1 meets.

    Factors of all ranks, `[k, rank, b, out]`, are held by the backend `reference` alone. Products
    are summed, and factors multiplied, in float32 or wider.

    Args:
      vectors: of each modality, which may differ in width; zeros where it is absent, of which the
        offsets remain.
      factors: of each modality its offsets a and weights W by rank, in the vectors' dtype.
      mix: w.
      bias: b.
      target: what it is compiled for.
      backend: `auto`, or the backend of the forward pass. Kernels are for the forward pass alone.
      backward: that of the backward pass.
      layout: over which it runs; each device takes its rows and its features of the result.

    Returns the result in the vectors' dtype.

    Raises `FusekitError` for arguments that do not fit, and `BackendError` for a backend that is
    not there or cannot.
    """
    given = given_of(vectors, factors, mix, bias)
    return _fused(plan(given, target, backend=backend, backward=backward, layout=layout), given)


def able(given: Given, target: Target) -> dict[str, Callable[[], Reason]]:
    """The backends of the forward pass, best first, each with what says why it cannot; arrays may
    be shapes alone."""
    return {name: partial(module.unsupported, target, given) for name, module in _FORWARD.items()}


def plan(
    given: Given,
    target: Target,
    *,
    backend: str = "auto",
    backward: str = "auto",
    layout: Layout | None = None,
) -> Run:
    """The backends that `low_rank` would use, and why; arrays may be shapes alone."""

    def asked(what: str, name: str, modules: Mapping[str, ModuleType]) -> Choice:
        reasons: dict[str, Callable[[], Reason]] = {
            name: partial(module.unsupported, target, given) for name, module in modules.items()
        }
        return choose(what, name, reasons)

    return Run(
        asked("low-rank product", backend, _FORWARD),
        asked("low-rank product backward", backward, _BACKWARD),
        target,
        None if layout is None else Shards.of(layout, given),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(run: Run, given: Given) -> Array:
    name = run.forward.backend
    call = _FORWARD[name].forward
    if name in _KERNELS:
        call = partial(call, target=run.target)
    if run.shards is None or name == "reference":
        return call(given)
    return run.shards.forward(call, given)


def _keep(run: Run, given: Given) -> tuple[Array, Given]:
    return _fused(run, given), given


def _back(run: Run, given: Given, grad: Array) -> tuple[Given]:
    name = run.backward.backend
    call = _BACKWARD[name].backward
    if run.shards is None or name == "reference":
        return (call(given, grad),)
    return (run.shards.backward(call, given, grad),)


_fused.defvjp(_keep, _back)

"""Which backend runs an operation of a component: the one rule for all operations.

    backend = chosen(context, "attention", {"gpu": ..., "tpu": ..., "xla": able}).backend

`auto` takes the first backend that can and that nothing speaks against. A name takes that backend;
`pallas` is the kernel for the target. If that cannot: said of the component by name
(`mesh.components.NAME.kernel`) it is an error with the reason; said of all (`mesh.kernel`) the
operation runs as under `auto`, and the reason is noted (docs/design/017).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from fusekit.chosen import Chosen
from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit_modules.ops.dispatch import BackendError, Choice, Reason, choose
from fusekit_modules.ops.target import Target

Backends = Mapping[str, Callable[[], Reason]]
Found = tuple[Choice, str]
"""A choice, and why it is not what was asked for."""
KERNELS: Mapping[str, tuple[str, ...]] = {
    "tpu": ("tpu",),
    "splash": ("tpu",),
    "gpu": ("gpu",),
    "tokamax": ("tpu", "gpu"),
}
"""Backends that are kernels, and their platforms."""
PLAIN = ("reference", "xla")
PORTABLE = Target("cpu")


def able() -> Reason:
    """Of a backend that always can."""
    return None


def target_of(context: Context) -> Target:
    """What a component is compiled for: a CPU where that is not known, or no kernels know it."""
    return _target(context)[0]


def chosen(
    context: Context,
    operation: str,
    backends: Backends,
    *,
    doubts: Backends | None = None,
    because: Mapping[str, str] | None = None,
    shapes: Iterable[Any] = (),
) -> Choice:
    """The backend of an operation, noted for whoever asks.

    Args:
      context: of the component: what it asks for, and the device.
      operation: for messages.
      backends: what it has, best first; each says why it cannot, or `None`.
      doubts: why `auto` leaves a backend alone that could: it was not measured, say.
      because: of a backend that `auto` takes, why; to be noted.
      shapes: arrays that go in, or their shapes, to be noted.

    Raises `BackendError` if a backend asked for by the component's name cannot.
    """
    given: Any = {"doubts": doubts, "because": because, "shapes": shapes}
    return passes(context, operation, {"": backends}, **given)[0]


def passes(
    context: Context,
    operation: str,
    directions: Mapping[str, Backends],
    *,
    doubts: Backends | None = None,
    because: Mapping[str, str] | None = None,
    shapes: Iterable[Any] = (),
) -> tuple[Choice, ...]:
    """The backends of each pass, such as `forward` and `backward`; noted as one choice."""
    found = [
        _one(context, f"{operation} {direction}".strip(), backends, doubts or {})
        for direction, backends in directions.items()
    ]
    if context.collector.choices is not None:
        why = _why(context, found, because or {})
        context.note(_noted(context, operation, tuple(directions), found, why, shapes))
    return tuple(choice for choice, _ in found)


def _one(context: Context, operation: str, backends: Backends, doubts: Backends) -> Found:
    target, unknown = _target(context)
    unmet = ""
    if context.kernel != "auto" and context.device is not None:
        name, reason = _asked(context.kernel, operation, backends, target)
        if unknown and context.kernel == "pallas":
            reason = unknown
        if reason is None:
            return Choice(operation, name, asked=True), ""
        if context.named:
            asked = f"cannot use `kernel: {context.kernel}`: {reason}"
            raise BackendError(f"{context.path}: {operation} {asked}")
        unmet = reason
    if context.device is None or unknown:
        lost = "no device is known" if context.device is None else str(unknown)
        backends = {n: (lambda: lost) if n in KERNELS else r for n, r in backends.items()}
    choice = choose(operation, "auto", doubtful(backends, doubts))
    own = tuple(pair for pair in choice.refused if _for(pair[0], target) or pair[0] in PLAIN)
    return replace(choice, refused=own), unmet


def doubtful(backends: Backends, doubts: Backends) -> Backends:
    """Backends that `auto` leaves alone where there is a doubt."""

    def careful(name: str) -> Reason:
        return backends[name]() or (doubts[name]() if name in doubts else None)

    return {name: partial(careful, name) for name in backends}


def _for(name: str, target: Target) -> bool:
    """Whether a backend is a kernel for a target."""
    return target.platform in KERNELS.get(name, ())


def _asked(kernel: str, operation: str, backends: Backends, target: Target) -> tuple[str, Reason]:
    """The backend that a name means, and why it cannot. Of several kernels it is the first that
    can."""
    names = [name for name in backends if _for(name, target)] or [target.platform]
    if kernel != "pallas":
        names = [kernel]
    reasons = {name: _reason(operation, name, backends, target) for name in names}
    fitting = [name for name, reason in reasons.items() if reason is None]
    if fitting:
        return fitting[0], None
    return names[0], "; ".join(dict.fromkeys(str(reason) for reason in reasons.values()))


def _reason(operation: str, name: str, backends: Backends, target: Target) -> Reason:
    if name in backends:
        return backends[name]()
    if name == "cpu":
        return "there are no kernels for CPUs"
    return f"there is no kernel for a {target}" if name in KERNELS else f"there is no form `{name}`"


def _target(context: Context) -> tuple[Target, Reason]:
    """The target, and why no kernel runs on the device."""
    if context.device is None:
        return PORTABLE, None
    try:
        return Target.of(context.device), None
    except FusekitError as error:
        return PORTABLE, str(error)


def _why(context: Context, found: list[Found], because: Mapping[str, str]) -> str:
    """In words."""
    if all(choice.asked for choice, _ in found):
        return "as asked"
    unmet = next((reason for _, reason in found if reason), "")
    told = [f"not {context.kernel}: {unmet}"] if unmet else []
    refused = dict.fromkeys(pair for choice, _ in found for pair in choice.refused)
    told += [f"not {backend}: {reason}" for backend, reason in refused if reason != unmet]
    told += [because[choice.backend] for choice, _ in found[:1] if choice.backend in because]
    if not told and _target(context)[0].platform == "cpu":
        return "there are no kernels for CPUs"
    return "; ".join(told)


def _noted(
    context: Context,
    operation: str,
    directions: tuple[str, ...],
    found: list[Found],
    why: str,
    shapes: Iterable[Any],
) -> Chosen:
    names = [choice.backend for choice, _ in found]
    backend = names[0]
    if len(set(names)) > 1:
        backend = ", ".join(map(" ".join, zip(directions, names, strict=True)))
    return Chosen(
        path=context.path,
        operation=operation,
        backend=backend,
        kernel=context.kernel,
        why=why,
        unmet=next((reason for _, reason in found if reason), ""),
        kernels=any(name in KERNELS for name in names),
        shapes=" ".join(f"{one.dtype.name}[{','.join(map(str, one.shape))}]" for one in shapes),
    )

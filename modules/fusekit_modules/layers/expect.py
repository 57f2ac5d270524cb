"""What a component's `infer` may ask of a signature, with complaints that say what to do.

Every function takes the signature and the role under which it came, and raises `WiringError`
at `inputs.<role>`, or at `field` where that is given (`("input",)` for encoders and heads).
"""

from collections.abc import Iterable, Mapping, Sequence

from fusekit.errors import WiringError
from fusekit.stream import Kind, Signature

Field = tuple[str | int, ...]

_ADVICE: dict[tuple[str, Kind], str] = {
    ("vector", "grid"): "a vector: encode the grid first, or pool it with .mean",
    ("vector", "table"): "a vector: encode the table first",
    ("vector", "scalar"): "a vector: encode the numbers first",
    ("sequence", "vector"): "a sequence: name the tokens, not a reduction of them",
    ("sequence", "grid"): "a sequence: cut the grid into tokens with an encoder such as patches",
    ("grid", "sequence"): "a grid: name the feature map, not its tokens",
}


def _advice(signature: Signature, due: str) -> str:
    """What would be right in place of a stream; ports only if it has them."""
    if (due, signature.kind) != ("vector", "sequence"):
        return _ADVICE.get((due, signature.kind), f"a {due}")
    if "embed" not in signature.axes:
        return "a vector: embed the codes with an encoder first"
    tokens = sum(span.size for span in signature.spans if span.readout)
    readout = {0: "", 1: " .readout"}.get(tokens, " .readout.mean")
    return f"a vector: pool it with .mean .first .last{readout}"


def _fail(signature: Signature, role: str, due: str, field: Field | None) -> WiringError:
    return WiringError(
        f"{role!r} is a {signature.kind} where a {due} is due",
        found=signature,
        expected=_advice(signature, due),
        field=field or ("inputs", role),
    )


def _expect_kind(signature: Signature, role: str, kind: Kind, field: Field | None) -> Signature:
    if signature.kind != kind:
        raise _fail(signature, role, kind, field)
    return signature


def _expect_float(signature: Signature, role: str, field: Field | None) -> Signature:
    if signature.dtype != "float":
        raise WiringError(
            f"{role!r} holds codes, not features",
            found=signature,
            expected="real features: embed the codes with an encoder first",
            field=field or ("inputs", role),
        )
    return signature


def expect_vector(signature: Signature, role: str, *, field: Field | None = None) -> Signature:
    """A real vector `[b, embed]`."""
    _expect_kind(signature, role, "vector", field)
    return _expect_float(signature, role, field)


def expect_sequence(signature: Signature, role: str, *, field: Field | None = None) -> Signature:
    """A sequence of features `[b, time, embed]`."""
    _expect_kind(signature, role, "sequence", field)
    _expect_float(signature, role, field)
    if "embed" not in signature.axes:
        raise _fail(signature, role, "sequence of features", field)
    return signature


def expect_tokens(signature: Signature, role: str, *, field: Field | None = None) -> Signature:
    """A sequence of integer tokens `[b, time]` with a known number of classes."""
    _expect_kind(signature, role, "sequence", field)
    if signature.dtype != "int" or signature.axes != ("time",):
        raise _fail(signature, role, "sequence of integer tokens", field)
    return signature


def expect_scalar(signature: Signature, role: str, *, field: Field | None = None) -> Signature:
    """One number, or one class, a sample: `[b]`."""
    return _expect_kind(signature, role, "scalar", field)


def expect_table(signature: Signature, role: str, *, field: Field | None = None) -> Signature:
    """A table `[b, field]`."""
    return _expect_kind(signature, role, "table", field)


def expect_grid(
    signature: Signature, role: str, *, axes: tuple[str, ...] = (), field: Field | None = None
) -> Signature:
    """A grid; with `axes`, one with exactly these axes, such as `height, width, channel`."""
    _expect_kind(signature, role, "grid", field)
    if axes and signature.axes != axes:
        raise WiringError(
            f"{role!r} is a grid of other axes than needed",
            found=signature,
            expected=", ".join(axes),
            field=field or ("inputs", role),
        )
    return signature


def expect_class(signature: Signature, role: str, *, field: Field | None = None) -> int:
    """An integer stream with a known number of classes; returns that number."""
    if signature.dtype != "int" or signature.classes is None:
        raise _fail(signature, role, "class with a known number of classes", field)
    return signature.classes


def expect_count(
    inputs: Mapping[str, Signature] | Sequence[str], *, least: int = 1, most: int | None = None
) -> None:
    """Between `least` and `most` inputs (`None`: any number)."""
    if len(inputs) < least or (most is not None and len(inputs) > most):
        bound = f"at least {least}" if most is None else f"{least} to {most}"
        raise WiringError(
            "the number of inputs does not fit",
            found=f"{len(inputs)}: {', '.join(inputs)}",
            expected=str(least) if least == most else bound,
            field=("inputs",),
        )


def all_labelled(stream: Signature, labels: Iterable[str]) -> bool:
    """Whether every token of a stream has one of these labels."""
    return {span.label for span in stream.spans} <= set(labels)


def expect_labels(labels: Sequence[str], streams: Sequence[Signature]) -> None:
    """Every label is one of the streams' spans."""
    held = {span.label for stream in streams for span in stream.spans}
    if missing := [label for label in labels if label not in held]:
        raise WiringError(
            "no token has this label",
            found=missing[0],
            expected=", ".join(sorted(held)),
            field=("labels",),
        )


def expect_same(
    inputs: Mapping[str, Signature], axis: str, *, hint: str = "", field: Field = ("inputs",)
) -> int:
    """All inputs have the same size along `axis`; returns that size."""
    sizes = {role: signature.size(axis) for role, signature in inputs.items()}
    if len(set(sizes.values())) > 1:
        raise WiringError(
            f"the inputs differ in {axis}",
            found=", ".join(f"{role} {size}" for role, size in sizes.items()),
            expected=hint or f"one size of {axis}",
            field=field,
        )
    return next(iter(sizes.values()))

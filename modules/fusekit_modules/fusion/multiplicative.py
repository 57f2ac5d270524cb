"""Multiplicative interactions."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, Outputs, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Stream, sequence
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._vectors import WidthFusionSpec

Form = Literal["matrix", "matrix3d", "vector", "scalar"]


@register
class MultiplicativeSpec(WidthFusionSpec):
    """A layer whose weights the first input makes and the second passes: MI (Jayakumar 2020).

    y = x_1 W x_2 + x_1 U + V x_2 + b, where W(x_1) is a full matrix, a vector (a gate for each
    unit of x_2) or a scalar; `matrix3d` gives `tokens` such rows. Three inputs, with `matrix`:
    the first two make a matrix and an offset, which the third passes. An absent modality is
    skipped: every term with it vanishes.
    """

    most = 3
    type: Literal["multiplicative"] = "multiplicative"
    form: Form = Field("matrix", description="what the first input makes")
    tokens: Count = Field(4, description="rows that matrix3d gives")

    def out_width(self, inputs: Signatures) -> int:
        if len(inputs) == 3 and self.form != "matrix":
            raise WiringError("three inputs need the matrix form", found=self.form, field=("form",))
        if self.form not in ("vector", "scalar"):
            return super().out_width(inputs)
        second = list(inputs.values())[1].width
        if self.width not in (None, second):
            message = f"the {self.form} form keeps the second input's width"
            raise WiringError(message, found=self.width, expected=second, field=("width",))
        return second

    def infer(self, inputs: Signatures) -> Outputs:
        out = super().infer(inputs)
        if self.form == "matrix3d" and not isinstance(out, dict):
            return sequence(self.tokens, out.width, label="fused", optional=out.optional)
        return out

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Multiplicative":
        return Multiplicative(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {},
            {"form": "vector"},
            {"form": "scalar"},
            {"form": "matrix3d", "tokens": 2, "width": 4},
        ]


class Interaction(nnx.Module):
    """`x [b, n], y [b, m] -> [b, out]`; without `out` the vector or scalar form, `[b, m]`.

    Each of the matrix form's terms starts with variance `scale**2` for inputs of variance one.
    """

    def __init__(
        self, n: int, m: int, out: int | None, form: Form, *, scale: float = 1.0, rngs: nnx.Rngs
    ):
        made = {"vector": (m,), "scalar": (1,)}.get(form, (m, out or m))
        offset, axes = made[-1:], (None, "features")[-len(made) :]
        both = initializers.normal(scale * (n * (m if len(made) == 2 else 1)) ** -0.5)
        self.weight = parameter(rngs, both, (n, *made), ("embed", *axes))
        second = initializers.normal(scale * m**-0.5) if len(made) == 2 else initializers.ones
        self.second = parameter(rngs, second, made, axes)
        first = initializers.normal(scale * n**-0.5)
        self.first = parameter(rngs, first, (n, *offset), ("embed", "features"))
        self.bias = parameter(rngs, initializers.zeros, offset, ("features",))
        self.contract = len(made) == 2

    def __call__(self, x: Float[Array, "b n"], y: Float[Array, "b m"]) -> Float[Array, "b o"]:
        weight, second = self.weight[...].astype(x.dtype), self.second[...].astype(x.dtype)
        first, bias = self.first[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        offset = x @ first + bias[None]
        if self.contract:
            return jnp.einsum("bn,nmo,bm->bo", x, weight, y) + y @ second + offset
        return (x @ weight + second[None]) * y + offset


class Multiplicative(nnx.Module):
    """`[b, width]`, or `[b, tokens, width]` for `matrix3d`."""

    def __init__(self, spec: MultiplicativeSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        n, m, *third = [signature.width for signature in inputs.values()]
        width = spec.out_width(inputs)
        self.tokens = spec.tokens if spec.form == "matrix3d" else None
        self.offset = Interaction(n, m, width * (self.tokens or 1), spec.form, rngs=rngs)
        self.made = nnx.List([])
        for size in third:  # the third input passes a matrix: its rows share the variance
            made = Interaction(n, m, width * size, "matrix", scale=size**-0.5, rngs=rngs)
            self.made.append(made)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, _ = read(streams)
        out = self.offset(*values[:2])
        for made, third in zip(self.made, values[2:], strict=True):
            matrix = made(*values[:2]).reshape(*third.shape, -1)
            out += jnp.einsum("bm,bmo->bo", third, matrix)
        if self.tokens is None:
            return emit(out, streams.values())
        out = emit(out.reshape(out.shape[0], self.tokens, -1), streams.values())
        signature = sequence(self.tokens, out.width, label="fused")
        return out.with_(spans=signature.spans)

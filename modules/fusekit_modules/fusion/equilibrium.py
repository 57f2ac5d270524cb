"""Fusion as a fixed point."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, Outputs, Positive, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._fixed_point import Solver, fixed_point
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.norm import wide

EPSILON = 1e-5


@register
class EquilibriumSpec(WidthFusionSpec):
    """States of the modalities and of their fusion at the fixed point of their updates: DEQ fusion
    (Ni et al. 2023, sec. 3.2), differentiated implicitly.

    Port `residual`: |f(z) - z| / |f(z)| as reached, one number a row. With `jacobian`, the port of
    that name is an estimate by row of |J|^2 / n at the fixed point, for a loss to weigh (Bai et al.
    2021, eq. 6). Only present modalities have a state that the fused one sees. Nothing makes the
    updates a contraction: watch the residual.
    """

    type: Literal["equilibrium"] = "equilibrium"
    solver: Literal["anderson", "iteration"] = Field("anderson", description="how it is sought")
    tolerance: Positive = Field(1e-4, description="residual at which a sample is done")
    iterations: Count = Field(50, description="most updates, forward and backward each")
    memory: Count = Field(5, description="iterates that Anderson's mixing combines")
    groups: Count = Field(1, description="groups of channels of the norms; they divide the width")
    jacobian: bool = Field(False, description="whether there is a port jacobian")

    def infer(self, inputs: Signatures) -> Outputs:
        """The fused state and numbers by row. Raises `WiringError`."""
        out = super().infer(inputs)
        if (width := self.out_width(inputs)) % self.groups:
            found, expected = self.groups, f"a divisor of {width}"
            raise WiringError(
                "the groups do not divide the width",
                found=found,
                expected=expected,
                field=("groups",),
            )
        number = Signature((), optional=all(s.optional for s in inputs.values()))
        names = ("residual", "jacobian") if self.jacobian else ("residual",)
        return {"out": out, **dict.fromkeys(names, number)}  # pyright: ignore[reportReturnType]

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Equilibrium":
        return Equilibrium(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"width": 4, "solver": "iteration", "iterations": 8, "jacobian": True}]


class Equilibrium(nnx.Module):
    """z = f(z; x) for z = [z_1; ...; z_M; z_fused], all zeros at first: `[b, width]`."""

    def __init__(self, spec: EquilibriumSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.solver = Solver(spec.solver, spec.tolerance, spec.iterations, spec.memory)
        self.width, self.jacobian = spec.out_width(inputs), spec.jacobian
        self.project = projections(inputs, self.width, rngs=rngs)
        self.update = Update(len(inputs), self.width, spec.groups, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        values, present = read(streams)
        given = [project(x) for project, x in zip(self.project, values, strict=True)]
        injected = jnp.where(present[..., None], jnp.stack(given, axis=1), 0)
        injected = wide(injected)
        graph, state = nnx.split(self.update)
        theta = nnx.to_pure_dict(state), injected, present.astype(injected.dtype)
        f = partial(_update, graph)
        start = jnp.zeros((len(present), (len(values) + 1) * self.width), injected.dtype)
        z, residual = fixed_point(f, self.solver, theta, start)
        fused = z[:, -self.width :].astype(values[0].dtype)
        numbers = {"residual": residual}
        if self.jacobian:
            key = jax.random.key(0) if context.key is None else context.rng("jacobian")
            pull = jax.vjp(partial(f, theta), jax.lax.stop_gradient(z))[1]
            probe = jax.random.normal(key, z.shape, z.dtype)
            numbers["jacobian"] = jnp.mean(jnp.square(pull(probe)[0]), axis=1)
        given = {"out": fused, **numbers}
        return {name: emit(value, streams.values()) for name, value in given.items()}


def _update(graph: Any, theta: Any, z: Float[Array, "b n"]) -> Float[Array, "b n"]:
    parameters, injected, present = theta
    return nnx.merge(graph, nnx.State(parameters))(z, injected, present)


class Update(nnx.Module):
    """One update of all states; those of the modalities side by side, each with its own weights."""

    def __init__(self, count: int, width: int, groups: int, *, rngs: nnx.Rngs):
        shape, axes = (2, count, width, width), (None, None, "embed", "features")
        init = initializers.lecun_normal(batch_axis=(0, 1))
        self.kernels = parameter(rngs, init, shape, axes)
        self.biases = parameter(rngs, initializers.zeros, (2, count, width), (None, None, "embed"))
        self.norms = nnx.List([Norm((count, width), groups, rngs=rngs) for _ in range(3)])
        linear = partial(Linear, width, width, axes=("embed", "features"), rngs=rngs)
        self.gate, self.fuse = linear(), linear()
        self.norm = Norm((width,), groups, rngs=rngs)

    def __call__(
        self,
        z: Float[Array, "b n"],
        injected: Float[Array, "b m d"],
        present: Float[Array, "b m"],
    ) -> Float[Array, "b n"]:
        """Of a modality, norm(relu(norm(B relu(norm(A z_k)) + x_k) + z_k)); of the fused state,
        norm(relu(W sum_k (G (z_k + z)) * z + sum_k x_k)) with the new z_k of the present ones."""
        states = z.reshape(len(z), -1, injected.shape[-1])
        each, fused = states[:, :-1], states[:, -1]
        kernels, biases = self.kernels[...].astype(z.dtype), self.biases[...].astype(z.dtype)
        inner = jnp.einsum("bmd,mde->bme", each, kernels[0]) + biases[0]
        inner = jnp.einsum("bmd,mde->bme", jax.nn.relu(self.norms[0](inner)), kernels[1])
        inner = self.norms[1](inner + biases[1] + injected)
        new = self.norms[2](jax.nn.relu(inner + each))
        purified = self.gate(new + fused[:, None]) * fused[:, None]
        total = self.fuse(jnp.einsum("bm,bmd->bd", present, purified))
        combined = self.norm(jax.nn.relu(total + jnp.sum(injected, axis=1)))
        return jnp.concatenate([new, combined[:, None]], axis=1).reshape(z.shape)


class Norm(nnx.Module):
    """Group norm over the last axis; scale and bias may differ along the axis before it."""

    def __init__(self, shape: tuple[int, ...], groups: int, *, rngs: nnx.Rngs):
        self.groups, axes = groups, (*(None for _ in shape[1:]), "embed")
        self.scale = parameter(rngs, initializers.ones, shape, axes)
        self.bias = parameter(rngs, initializers.zeros, shape, axes)

    def __call__(self, x: Float[Array, "b *m d"]) -> Float[Array, "b *m d"]:
        split = x.reshape(*x.shape[:-1], self.groups, -1)
        centred = split - jnp.mean(split, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + EPSILON)).reshape(x.shape)
        return normal * self.scale[...].astype(x.dtype) + self.bias[...].astype(x.dtype)

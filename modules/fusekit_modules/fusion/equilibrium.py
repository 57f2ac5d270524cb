"""Fusion as a fixed point."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, Outputs, Positive, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._equilibrium import Update
from fusekit_modules.fusion._fixed_point import Solver, fixed_point
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.wide import wide


@register
class EquilibriumSpec(WidthFusionSpec):
    """States of the modalities and of their fusion at the fixed point of their updates: DEQ fusion
    (Ni et al. 2023, sec. 3.2), differentiated implicitly.

    Port `residual`: |f(z) - z| / |f(z)| as reached, one number a row. With `jacobian`, the port of
    that name is an estimate by row of |J|^2 / n at the fixed point, for a loss to weigh (Bai et al.
    2021, eq. 6). Only present modalities have a state that the fused one sees. Maps
    start small, so that the first updates contract; nothing keeps them so: watch the residual.
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
        start = jnp.zeros((present.shape[0], (len(values) + 1) * self.width), injected.dtype)
        found: Any = fixed_point(f, self.solver, theta, start)
        z, residual = found
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

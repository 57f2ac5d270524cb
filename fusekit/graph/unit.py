"""A unit: what it is called, how it is built, and how several of a kind are held together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from fusekit.context import name_hash
from fusekit.parameter import shapes_only

Tree = dict[Any, Any]
END = -2


@dataclass(frozen=True, order=True)
class UnitId:
    """A node's own module, one of its layers (from 0), or what stands after them (`END`)."""

    node: str
    layer: int = -1

    @property
    def path(self) -> str:
        """The canonical path, a prefix of those of its parameters."""
        if self.layer == END:
            return f"{self.node}.end"
        return self.node if self.layer < 0 else f"{self.node}.layers.{self.layer}"

    def key(self, base: Array) -> Array:
        """The random key that initialises it: of the path alone."""
        return jax.random.fold_in(jax.random.fold_in(base, name_hash(self.node)), self.layer + 2)


@dataclass(frozen=True, eq=False)
class Template:
    """What units of one structure share: how to build them, and the shapes of their state."""

    build: Callable[[nnx.Rngs], nnx.Module]
    graphdef: Any
    params: Tree
    variables: Tree
    axes: dict[tuple[Any, ...], tuple[str | None, ...]]
    """Logical axis names by path within the unit, of parameters and variables."""

    @staticmethod
    def of(build: Callable[[nnx.Rngs], nnx.Module]) -> "Template":
        """Builds the module abstractly: no weight is allocated."""
        seen: dict[str, Any] = {}

        def split(key: Array) -> tuple[Tree, Tree]:
            graphdef, params, variables = nnx.split(build(nnx.Rngs(key)), nnx.Param, ...)
            seen["graphdef"] = graphdef
            seen["axes"] = {
                path: tuple(leaf.get_metadata().get("axes", (None,) * len(leaf.shape)))
                for state in (params, variables)
                for path, leaf in nnx.to_flat_state(state)
            }
            return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

        with shapes_only():
            params, variables = jax.eval_shape(split, jax.random.key(0))
        return Template(build, seen["graphdef"], params, variables, seen["axes"])

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Initial parameters and variables."""
        _, params, variables = nnx.split(self.build(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(variables)

    def merge(self, params: Tree, variables: Tree) -> nnx.Module:
        return nnx.merge(self.graphdef, nnx.State(params), nnx.State(variables))


def variables_of(module: nnx.Module) -> Tree:
    """A module's variables that are not parameters, as they stand."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))


def alike(one: Template, other: Template) -> bool:
    """Whether two templates have the same structure and settings."""
    if one is other:
        return True
    same_settings = one.graphdef == other.graphdef
    return same_settings and (one.params, one.variables) == (other.params, other.variables)


@dataclass(frozen=True)
class Group:
    """Units held together: one, or several layers stacked on a leading axis `layers`."""

    units: tuple[UnitId, ...]
    template: Template
    stacked: bool
    origins: tuple[UnitId, ...] = ()
    """Whose initial values the units have, if not their own."""

    @property
    def name(self) -> str:
        """Such as `image.layers.3`, or `image.layers.3:12:1` where stacked."""
        if not self.stacked:
            return self.units[0].path
        layers = [unit.layer for unit in self.units]
        step = layers[1] - layers[0] if len(layers) > 1 else 1
        return f"{self.units[0].node}.layers.{layers[0]}:{layers[-1] + 1}:{step}"

    def keys(self, base: Array) -> Array:
        """The key of the unit, or those of the stacked units."""
        keys = [unit.key(base) for unit in self.origins or self.units]
        return jnp.stack(keys) if self.stacked else keys[0]

    def abstract(self) -> tuple[Tree, Tree]:
        """Shapes of the state."""

        def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            shape = (len(self.units), *leaf.shape) if self.stacked else leaf.shape
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        return jax.tree.map(one, (self.template.params, self.template.variables))

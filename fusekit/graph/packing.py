"""Between the program's packed state and canonical paths.

Checkpoints, reports, `trainable` patterns and imported weights speak of one path per parameter
(`image.layers.3.attention.query`), however the program holds it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, KeyPath, SequenceKey

from fusekit.graph.unit import Group


def step_name(step: Any) -> str:
    """One step of a tree path, as text."""
    match step:
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return str(key)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
        case _:
            return str(step)


def unpack(tree: Any, groups: Mapping[str, Group]) -> dict[str, Any]:
    """A packed tree as {canonical path: array}. Outside of groups, paths are tree paths."""
    flat: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        for name, index in names_of(path, groups):
            flat[name] = leaf if index is None else leaf[index]
    return flat


def names_of(path: KeyPath, groups: Mapping[str, Group]) -> list[tuple[str, int | None]]:
    """The canonical names of one packed leaf, with the index of each in a stacked leaf."""
    steps = [step_name(step) for step in path]
    for position, step in enumerate(steps):
        group = groups.get(step)
        if group is not None:
            before, after = steps[:position], steps[position + 1 :]
            return [
                (".".join([*before, unit.path, *after]), i if group.stacked else None)
                for i, unit in enumerate(group.units)
            ]
    return [(".".join(steps), None)]


def pack(flat: Mapping[str, Any], like: Any, groups: Mapping[str, Group]) -> Any:
    """The packed tree, of the structure of `like`, from canonical paths; a copy, which may be
    donated. Raises `KeyError`."""

    def leaf(path: KeyPath, shape: Any) -> Any:
        names = names_of(path, groups)
        if names[0][1] is None:
            return jnp.array(flat[names[0][0]])
        return jnp.stack([jnp.asarray(flat[name]) for name, _ in names])

    return jax.tree_util.tree_map_with_path(leaf, like)


def unstacked(
    transformation: optax.GradientTransformation, groups: Mapping[str, Group]
) -> optax.GradientTransformation:
    """An optimiser that sees one array a layer, for programs that hold layers stacked."""

    def init(params: Any) -> Any:
        return transformation.init(unpack(params, groups))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        flat = None if params is None else unpack(params, groups)
        new, state = transformation.update(unpack(updates, groups), state, flat)
        return pack(new, updates, groups), state  # pyright: ignore[reportArgumentType]

    return optax.GradientTransformation(init, update)


def canonical_names(like: Any, groups: Mapping[str, Group]) -> list[str]:
    """Every canonical path that a packed tree holds."""
    return [
        name
        for path, _ in jax.tree_util.tree_leaves_with_path(like)
        for name, _ in names_of(path, groups)
    ]

"""Batches in the one form that a program is compiled for, or an error that says what is wrong."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusekit.errors import DataError, nearest
from fusekit.graph.node import Key
from fusekit.hosts.rows import spread
from fusekit.layout import Layout
from fusekit.model import FusionModel
from fusekit.stream import Signature, Stream

Batch = Mapping[str, Any]


def prepared(
    model: FusionModel, layout: Layout, batch: Batch, wanted: Iterable[Key] | None = None
) -> dict[str, Stream]:
    """A batch in the one form that is compiled for: arrays become streams, and masks and
    presences stand exactly where they are declared.

    Raises `DataError` for entries that are missing or of the wrong shape.
    """
    found: dict[str, Stream] = {}
    problems: list[str] = []
    rows = _rows(batch)
    for name in model.entries(wanted):
        signature = model.graph.signatures[Key("out", f"batch.{name}")]
        assert isinstance(signature, Signature)
        if name not in batch:
            close = nearest(name, batch) or tuple(batch)
            problems.append(f"the batch has no {name} ({', '.join(close)})")
            continue
        given = batch[name]
        stream = given if isinstance(given, Stream) else Stream(given)
        misfits = _misfits(name, stream, signature, rows)
        if misfits:
            problems += misfits
            continue
        mask: Any = None
        presence: Any = None
        if signature.padded:
            mask = _bools(stream.mask, np.shape(stream.values)[:2])
        if signature.optional:
            presence = _bools(stream.presence, (rows,))
        found[name] = Stream(stream.values, mask, presence)
    if problems:
        raise DataError("; ".join(problems))
    valid: Any = batch.get("valid")
    if valid is None:
        valid = np.ones(rows, bool)
    found["valid"] = valid if isinstance(valid, Stream) else Stream(valid)
    if layout.size > 1:
        return spread(layout, found)
    return found


def blank(model: FusionModel, size: int, wanted: Iterable[Key] | None = None) -> dict[str, Stream]:
    """The shapes of a batch of so many rows: of what the wanted values need, by default all."""
    found: dict[str, Stream] = {}
    dtypes = {"float": jnp.float32, "int": jnp.int32, "bool": jnp.bool_}
    for name in model.entries(wanted):
        signature = model.graph.signatures[Key("out", f"batch.{name}")]
        assert isinstance(signature, Signature)
        shape: Any = jax.ShapeDtypeStruct((size, *signature.shape), dtypes[signature.dtype])
        mask: Any = jax.ShapeDtypeStruct(shape.shape[:2], jnp.bool_)
        presence: Any = jax.ShapeDtypeStruct((size,), jnp.bool_)
        found[name] = Stream(
            shape, mask if signature.padded else None, presence if signature.optional else None
        )
    valid: Any = jax.ShapeDtypeStruct((size,), jnp.bool_)
    return {**found, "valid": Stream(valid)}


def _rows(batch: Batch) -> int:
    """How many rows a batch has: as many as most of its entries."""
    shapes = [np.shape(getattr(given, "values", given)) for given in batch.values()]
    sizes = [shape[0] for shape in shapes if shape]
    return max(set(sizes), key=sizes.count) if sizes else 0


def _bools(given: Any, shape: tuple[int, ...]) -> Any:
    """A mask as it is compiled for."""
    return np.ones(shape, bool) if given is None else given.astype(bool)


def _misfits(name: str, stream: Stream, signature: Signature, rows: int) -> list[str]:
    """What is wrong with an entry of a batch."""
    shape = tuple(np.shape(stream.values))
    if shape[1:] != signature.shape or not shape:
        sizes = ", ".join(["batch", *map(str, signature.shape)])
        return [f"{name} has shape {shape}; expected ({sizes})"]
    found = []
    if shape[0] != rows:
        found.append(f"{name} has {shape[0]} rows; the batch has {rows}")
    for what, given, expected, declared, how in (
        ("mask", stream.mask, shape[:2], signature.padded, "is never padded"),
        ("presence", stream.presence, shape[:1], signature.optional, "is not optional"),
    ):
        if given is None:
            continue
        if tuple(np.shape(given)) != expected:
            found.append(f"the {what} of {name} has shape {np.shape(given)}; expected {expected}")
        elif not declared and not np.all(np.asarray(given)):
            found.append(f"the {what} of {name} is not all true, but {name} {how}")
    return found

"""What a walk does to the values on their way: dtypes, masks, spans, shardings."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fusekit.context import Context
from fusekit.deferred import Deferred
from fusekit.graph.node import Event, Key
from fusekit.graph.unit import Template, Tree
from fusekit.stream import Signature, Stream

Values = dict[Key, Any]
State = dict[str, Tree]


def is_raw(event: Event, role: str) -> bool:
    """Whether a role wants a layer's whole output, extra tokens included."""
    return event.kind == "leave" and role.startswith("raw")


def in_dtype(stream: Stream, before: Stream) -> Stream:
    """A running stream in the dtype that it had, whatever an operator's arithmetic made of it."""
    return stream.with_(values=stream.values.astype(before.values.dtype))


def keep_rows(values: Array, valid: Array) -> Array:
    """Zeros in rows that only fill the batch up, whatever they hold."""
    full = valid.reshape(valid.shape + (1,) * (values.ndim - 1))
    return jnp.where(full, values, jnp.zeros((), values.dtype))


def merged(template: Template, params: Tree, variables: Tree, node: str, context: Context) -> Any:
    """A unit's module, its parameters gathered for use if a mesh stores them in parts."""
    if context.layout is not None:
        params = context.layout.of_node(node).gathered(params, template.axes)
    return template.merge(params, variables)


def described(out: Any, signature: Any) -> Any:
    """The streams with the spans that the graph knows, labels included."""
    if isinstance(out, dict):
        return {port: described(stream, signature[port]) for port, stream in out.items()}
    if isinstance(out, Deferred):
        return replace(out, features=described(out.features, signature))
    return out.with_(spans=signature.spans, grid=signature.grid)


def finished(out: Any, context: Context) -> Any:
    """What a node gives: zeros where padded or absent, sharded by the activation rules."""
    if isinstance(out, Deferred):
        return replace(out, features=finished(out.features, context))
    return jax.tree.map(lambda stream: constrained(stream, context), cleaned(out), is_leaf=_whole)


def cleaned(out: Any) -> Any:
    """Streams by port, or one, with zeros where padded or absent."""
    return jax.tree.map(lambda stream: stream.clean(), out, is_leaf=_whole)


def _whole(part: Any) -> bool:
    return isinstance(part, Stream)


def constrained(stream: Stream, context: Context) -> Stream:
    """The stream, annotated for the mesh if there is one."""
    return stream if context.layout is None else context.layout.constrain(stream)


def like(value: Any, before: Any, node: str) -> Any:
    """A carry with the dtypes it came in with; its structure may not change."""
    if jax.tree.structure(value) != jax.tree.structure(before):
        raise TypeError(
            f"{node} changes the structure of a stream from layer to layer, so it cannot be "
            "scanned: set mesh.layers to unroll"
        )
    return jax.tree.map(lambda new, old: new.astype(old.dtype), value, before)


def entered(stream: Stream, signature: Signature, valid: Stream | None, context: Context) -> Stream:
    """A batch entry as its signature says: cleaned, cast, mask and presence as declared, zero in
    rows that are not valid."""
    values = jnp.asarray(stream.values)
    if valid is not None:
        values = keep_rows(values, jnp.asarray(valid.values))
    mask = stream.mask if signature.padded else None
    presence = stream.presence if signature.optional else None
    if signature.padded and mask is None:
        mask = jnp.ones(values.shape[:2], bool)
    if signature.optional and presence is None:
        presence = jnp.ones(values.shape[:1], bool)
    clean = stream.with_(
        values=values, mask=mask, presence=presence, spans=signature.spans, grid=signature.grid
    ).clean()
    if signature.dtype == "float" and signature.kind != "table":
        clean = clean.with_(values=clean.values.astype(context.dtype))
    return constrained(clean, context)

"""Programs compiled for a mesh, as text."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Given = tuple[tuple[int, ...], P]


def mesh_of(devices: Any, **sizes: int) -> Mesh:
    """A mesh of the first devices."""
    count = int(np.prod(list(sizes.values())))
    return Mesh(np.asarray(devices[:count]).reshape(list(sizes.values())), tuple(sizes))


def compiled(
    function: Callable[..., Any],
    mesh: Mesh,
    *given: Given,
    dtype: Any = np.float32,
    out: Any = None,
) -> str:
    """The optimised HLO text of a function of arrays with these shapes and shardings."""
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, spec in given
    ]
    where = None if out is None else jax.tree.map(lambda spec: NamedSharding(mesh, spec), out)
    text = jax.jit(function, out_shardings=where).lower(*arrays).compile().as_text()
    assert text is not None
    return text


def mapped(function: Callable[..., Any], mesh: Mesh, ins: Any, out: Any) -> Callable[..., Any]:
    """A function that runs on each device by itself."""
    return jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=out, check_vma=False)

"""Which rows of a batch a host reads, and arrays over all hosts from what each of them has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fusekit.errors import LayoutError
from fusekit.layout import Layout


def share(layout: Layout, rows: int) -> NDArray[np.int64] | None:
    """The rows of a batch that this host's devices hold, ascending; None for all, on one host.

    They are what the mesh puts here: a part where hosts split the batch, all where they split
    parameters alone. So the batch over all hosts is that of one host, row by row.

    Raises:
      LayoutError: the batch does not divide over the mesh.
    """
    if jax.process_count() == 1:
        return None
    place = layout.batch(jax.ShapeDtypeStruct((rows,), np.bool_))
    held = place.addressable_devices_indices_map((rows,)).values()
    every = np.arange(rows)
    return np.unique(np.concatenate([every[index] for index in held]))


def spread(layout: Layout, tree: Any) -> Any:
    """Arrays over all hosts; each host gives the rows of its `share`."""
    if jax.process_count() == 1:
        return jax.device_put(tree, jax.tree.map(layout.batch, tree))
    own = share(layout, layout.rows())
    assert own is not None

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        parts, left = divmod(len(leaf), len(own))
        if left:
            raise LayoutError(
                f"{len(leaf)} rows of this host do not divide over {len(own)} parts of the mesh"
            )
        array = np.asarray(leaf)
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        shape = (parts * layout.rows(), *array.shape[1:])
        place = layout.batch(jax.ShapeDtypeStruct(shape, array.dtype))
        return jax.make_array_from_process_local_data(place, array, shape)

    return jax.tree.map(one, tree)


def whole(layout: Layout, array: NDArray[Any]) -> NDArray[Any]:
    """The rows of all hosts, on every host, from the rows of its `share`; bit by bit."""
    if jax.process_count() == 1 or layout.size == 1:
        return array
    from jax.experimental import multihost_utils

    words = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    found = multihost_utils.process_allgather(spread(layout, words), tiled=True)
    return np.ascontiguousarray(found).view(array.dtype).reshape(-1, *array.shape[1:])


def placed(tree: Any, places: Any) -> Any:
    """Whole arrays that every host has, put where they are to live."""
    if jax.process_count() == 1:
        return jax.device_put(tree, places)

    def one(leaf: Any, place: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, place)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf), place))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, place, lambda index: array[index])

    return jax.tree.map(one, tree, places)


def check_hosts(layout: Layout) -> None:
    """Raises `LayoutError` if the mesh leaves a host without any work."""
    if jax.process_count() == 1:
        return
    busy = {device.process_index for device in layout.mesh.devices.flat}
    idle = [k for k in range(jax.process_count()) if k not in busy]
    if idle:
        raise LayoutError(
            f"the mesh has {layout.size} of {jax.device_count()} devices, none of them on host"
            f" {', '.join(map(str, idle[:10]))}: say mesh.data: -1, or start fewer processes"
        )


def agreed(number: int) -> int:
    """The first host's number, on every host; they wait for each other."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

"""Views: modalities computed in the graph from another one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array
from pydantic import Field

from fusekit.component import ModalitySpec, Outputs, Signatures
from fusekit.config.reference import Ref
from fusekit.context import Context, name_hash
from fusekit.stream import Signature


class ViewSpec(ModalitySpec):
    """A modality made from the one that `of` names. It may be absent where that one may be."""

    of: Ref = Field(description="the modality that this view is made from")  # pyright: ignore

    def signature(self) -> Signature:
        """A view stands in no batch."""
        raise NotImplementedError(f"{self.type} is a view: see infer")

    def infer(self, inputs: Signatures) -> Outputs:
        raise NotImplementedError


def by_position(draw: Callable[..., Array], shape: tuple[int, ...]) -> Array:
    """Random numbers `[b, n, ...]`, drawn as `draw(shape)` with positions varying slowest: more
    padding at the end changes none of those before it."""
    if len(shape) < 2:
        return draw(shape)
    return jnp.swapaxes(draw((shape[1], shape[0], *shape[2:])), 0, 1)


def view_key(context: Context, purpose: str) -> Array:
    """The key of a view's randomness.

    In training it is the step's. Otherwise it depends on the path alone, so that every evaluation
    hides and disturbs the same.
    """
    if context.training:
        return context.rng(purpose)
    return jax.random.fold_in(jax.random.key(name_hash(purpose)), name_hash(context.path))

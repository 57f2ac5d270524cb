"""Hidden patches, to be predicted."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import Count, Outputs, Rate, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, sequence
from fusekit_modules.layers.embed import patch_mask
from fusekit_modules.layers.entry import spans_of
from fusekit_modules.layers.patches import patch_grid
from fusekit_modules.modalities._view import ViewSpec, view_key


@register
class MaskPatchesSpec(ViewSpec):
    """An image, spectrogram or video some of whose patches are hidden, that is zero (Xie et al.
    2022, SimMIM, with zeros for the learned token).

    Each patch is hidden with probability `rate`; one of whole frames, such as [1, 32, 32], hides
    frames. The ports are sequences of patches, in the order of an encoder's that cuts alike: the
    contents as they were, `patches`, are a target, and `hidden` is the `where` of its loss.
    Evaluation hides by a fixed pattern; prediction hides nothing.
    """

    type: Literal["mask_patches"] = "mask_patches"
    patch: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] = Field(
        description="patch size along each axis but the channels"
    )
    rate: Rate = Field(0.5, description="share of patches hidden")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"of": "batch.x", "patch": [2, 2]}, {"of": "batch.x", "patch": [1, 2], "rate": 1.0}]

    def infer(self, inputs: Signatures) -> Outputs:
        """The same, with `patches` and `hidden`. Raises `WiringError` for what has no patches."""
        given = inputs["of"]
        if given.kind != "grid" or given.axes[-1] != "channel":
            raise WiringError(
                f"a {given.kind} where an image, a spectrogram or a video is due",
                found=given,
                field=("of",),
            )
        patches = self.patches(given)
        sizes = patches.sizes[:1]
        hidden = patches.with_(sizes=sizes, dtype="bool", grid=())
        return {"out": given, "patches": patches.with_(grid=()), "hidden": hidden}

    def patches(self, given: Signature) -> Signature:
        """The patches of a grid as a sequence."""
        if len(self.patch) != len(given.sizes) - 1:
            raise WiringError(
                "the number of patch sizes does not fit",
                found=f"{len(self.patch)} sizes for {given}",
                expected=f"{len(given.sizes) - 1} sizes",
                field=("patch",),
            )
        grid = patch_grid(given, self.patch)
        length = math.prod(count for _, count in grid)
        return sequence(
            length,
            math.prod(self.patch) * given.width,
            spans=spans_of(given, length),
            padded=given.padded,
            optional=given.optional,
            grid=grid,
        )

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "MaskPatches":
        return MaskPatches(self, self.patches(inputs["of"]))


class MaskPatches(nnx.Module):
    """Values `[b, *sizes, c]` -> values, `patches [b, n, p]` and `hidden [b, n]`."""

    def __init__(self, spec: MaskPatchesSpec, patches: Signature):
        self.patch, self.rate, self.spans = spec.patch, spec.rate, patches.spans
        self.counts = tuple(count for _, count in patches.grid)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given = streams["of"].clean()
        patches, mask = cut(given.values, self.patch), given.mask
        if mask is not None:
            mask = patch_mask(mask, self.patch, list(self.counts))
        whole = Stream(patches, mask, given.presence, spans=self.spans)
        hidden = jnp.zeros(patches.shape[:2], bool)
        if context.mode != "predict":
            key = view_key(context, "mask_patches")
            hidden = jax.random.uniform(key, hidden.shape) < self.rate
            valid = whole.valid()
            hidden = hidden if valid is None else hidden & valid
        left = jnp.where(hidden[..., None], jnp.zeros((), patches.dtype), patches)
        return {
            "out": given.with_(values=joined(left, self.patch, self.counts)),
            "patches": whole.clean(),
            "hidden": whole.with_(values=hidden),
        }


def cut(values: Float[Array, "b *sizes c"], patch: tuple[int, ...]) -> Float[Array, "b n p"]:
    """Patches in row-major order, each flattened with its channels last."""
    pairs = [(size // p, p) for size, p in zip(values.shape[1:-1], patch, strict=True)]
    apart = values.reshape(values.shape[0], *np.ravel(pairs).tolist(), values.shape[-1])
    order = (0, *range(1, apart.ndim - 1, 2), *range(2, apart.ndim - 1, 2), apart.ndim - 1)
    count = math.prod(n for n, _ in pairs)
    return apart.transpose(order).reshape(values.shape[0], count, -1)


def joined(
    patches: Float[Array, "b n p"], patch: tuple[int, ...], counts: tuple[int, ...]
) -> Float[Array, "b *sizes c"]:
    """The values that `cut` gives these patches of."""
    axes = len(patch)
    apart = patches.reshape(patches.shape[0], *counts, *patch, -1)
    order = (0, *[1 + k // 2 + axes * (k % 2) for k in range(2 * axes)], 2 * axes + 1)
    sizes = [n * p for n, p in zip(counts, patch, strict=True)]
    return apart.transpose(order).reshape(patches.shape[0], *sizes, -1)

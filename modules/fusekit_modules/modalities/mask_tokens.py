"""Hidden tokens, to be predicted."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from fusekit.component import Outputs, Rate, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.layers.expect import expect_class, expect_tokens
from fusekit_modules.modalities._view import ViewSpec, by_position, view_key


@register
class MaskTokensSpec(ViewSpec):
    """Tokens some of which are hidden (Devlin et al. 2019, section 3.1).

    Each token is chosen with probability `rate`. Of those chosen, the share `masked` becomes the
    mask token, the share `random` another token drawn evenly, and the rest stays. The port
    `hidden` is true where a token was chosen: the `where` of a loss. Evaluation hides by a fixed
    pattern; prediction hides nothing.
    """

    type: Literal["mask_tokens"] = "mask_tokens"
    rate: Rate = Field(0.15, description="share of tokens chosen")
    masked: Rate = Field(0.8, description="of those chosen, the share that the mask token replaces")
    random: Rate = Field(0.1, description="of those chosen, the share that becomes another token")
    mask: int | None = Field(
        None, ge=0, description="the mask token; default the vocabulary's last"
    )
    special: tuple[int, ...] = Field((), description="tokens never chosen nor drawn: start, end")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"of": "batch.x"}, {"of": "batch.x", "rate": 0.5, "mask": 0, "special": [1]}]

    def infer(self, inputs: Signatures) -> Outputs:
        """Tokens as they were, and `hidden`. Raises `WiringError` for anything but tokens."""
        tokens = expect_tokens(inputs["of"], "of", field=("of",))
        vocab = expect_class(tokens, "of", field=("of",))
        if self.masked + self.random > 1:
            raise WiringError(
                "the shares of tokens masked and drawn exceed one",
                found=self.masked + self.random,
                expected="masked + random of at most 1",
                field=("random",),
            )
        for field, codes in (("mask", (self.mask or 0,)), ("special", self.special)):
            if any(not 0 <= code < vocab for code in codes):
                raise WiringError(
                    f"{field} names a token outside of the vocabulary",
                    found=codes,
                    expected=f"codes from 0 to {vocab - 1}",
                    field=(field,),
                )
        if self.random and not self.drawable(vocab):
            raise WiringError("no token is left to draw", expected="random: 0", field=("random",))
        return {"out": tokens, "hidden": tokens.with_(dtype="bool", classes=None, names=())}

    def mask_token(self, vocab: int) -> int:
        return vocab - 1 if self.mask is None else self.mask

    def drawable(self, vocab: int) -> tuple[int, ...]:
        """Tokens that may be drawn at random."""
        apart = {self.mask_token(vocab), *self.special}
        return tuple(code for code in range(vocab) if code not in apart)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "MaskTokens":
        return MaskTokens(self, expect_class(inputs["of"], "of", field=("of",)))


class MaskTokens(nnx.Module):
    """Tokens `[b, t]` -> tokens `[b, t]` and `hidden [b, t]`."""

    def __init__(self, spec: MaskTokensSpec, vocab: int):
        self.rate, self.masked, self.drawn = spec.rate, spec.masked, spec.random
        self.token, self.special = spec.mask_token(vocab), spec.special
        self.drawable = spec.drawable(vocab)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given = streams["of"].clean()
        tokens = given.values
        if context.mode == "predict":
            return {"out": given, "hidden": given.with_(values=jnp.zeros(tokens.shape, bool))}
        choose, decide, draw = jax.random.split(view_key(context, "mask_tokens"), 3)
        chosen = by_position(partial(jax.random.uniform, choose), tokens.shape)
        hidden = chosen < self.rate
        if self.special:
            hidden &= ~jnp.isin(tokens, jnp.asarray(self.special, tokens.dtype))
        valid = given.valid()
        if valid is not None:
            hidden &= valid
        fate = by_position(partial(jax.random.uniform, decide), tokens.shape)
        out = jnp.where(hidden & (fate < self.masked), self.token, tokens)
        if self.drawn:
            table = jnp.asarray(np.asarray(self.drawable), tokens.dtype)
            among = partial(jax.random.randint, draw, minval=0, maxval=len(self.drawable))
            other = table[by_position(among, tokens.shape)]
            drawn = hidden & (fate >= self.masked) & (fate < self.masked + self.drawn)
            out = jnp.where(drawn, other, out)
        return {"out": given.with_(values=out), "hidden": given.with_(values=hidden)}

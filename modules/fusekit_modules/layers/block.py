"""The pre-norm transformer block, which obeys every hook of `fusekit.layered.Edit`."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.layered import KeyValue, MaskRule
from fusekit.stream import Stream
from fusekit_modules.layers.attend import Attend
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.choose import Chosen, Own, take, take_stream
from fusekit_modules.layers.edits import Merged
from fusekit_modules.layers.mask_rule import Rule, as_added, described
from fusekit_modules.layers.norm import LayerNorm, NormName, RMSNorm, norm
from fusekit_modules.layers.sight import Mask, Sight
from fusekit_modules.layers.sublayers import Sublayers


def causal(own: int, extras: int, others: int, readouts: int) -> Sight:
    """Who reads whom where a stream's tokens read what stands before them.

    The first `readouts` tokens are the stack's own readout tokens: they read every token and no
    other token reads them. Extra tokens are read by all and read one another only, and so the
    future reaches no token by way of them. Further keys are read by all.
    """

    def rule(q: Array, k: Array) -> Array:
        return (k >= own) | ((q < own) & ((q < readouts) | ((k <= q) & (k >= readouts))))

    count = np.arange(own + extras + others, dtype="int32")
    return Sight(rule, count[: own + extras], count)


def seen_by(rule: MaskRule, queries: Stream, keys: Stream) -> Mask | Sight:
    """What a rule says; of those that know how, without making the mask yet."""
    return rule.sight(queries, keys) if isinstance(rule, Rule) else rule(queries, keys)


def _of_chosen(mask: Mask | Sight, chosen: Chosen | None) -> Mask | Sight:
    """The rows of the chosen queries."""
    if isinstance(mask, Sight):
        return mask.of(chosen)
    return take(mask, chosen, axis=mask.ndim - 2) if mask.shape[-2] > 1 else mask


class Block(Sublayers):
    """x + attention(norm(x)), then x + mlp(norm(x)); see `Sublayers`.

    Args:
      width: size of the tokens.
      heads: attention heads.
      causal: tokens read only what stands before them; see `causal`.
      readouts: how many of the first tokens are readout tokens; matters where `causal`.
      attend: what the tokens see of one another; extra keys and values are seen by all. Without
        it, all of their own segment.
      settings: as of `Sublayers`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm_name: NormName = "layer",
        causal: bool = False,
        readouts: int = 0,
        attend: Attend | None = None,
        rotary: bool = False,
        rngs: nnx.Rngs,
        **settings: Any,
    ):
        self.causal, self.readouts = causal, readouts
        self.ruled, self.rule = attend is not None, Rule.of("all" if attend is None else attend)
        self.attention_norm = norm(norm_name, width, rngs=rngs)
        self.attention = Attention(width, heads, rotary=rotary, rngs=rngs)
        super().__init__(width, norm_name=norm_name, rngs=rngs, **settings)

    def mixing_norm(self) -> LayerNorm | RMSNorm:
        return self.attention_norm

    def keys_values(self, stream: Stream) -> KeyValue:
        """What this layer's attention would read of a stream that enters it, for other stacks."""
        normal = stream.with_(values=self.attention_norm(stream.values))
        return self.attention.keys_values(normal)

    def reading(
        self, normal: Stream, sources: Sequence[KeyValue], *, context: Context
    ) -> Float[Array, "b n d"]:
        """What tokens that are normalised read of `sources` alone, by this layer's own weights."""
        return self.attention.read(self.attention.queries(normal), sources, context=context)

    def mixing(self, normal: Stream, parts: list[Stream], merged: Merged, context: Context) -> Own:
        """Attention of the chosen tokens over all tokens."""

        def own(chosen: Chosen | None) -> Array:
            weights = merged.deltas("attention")
            sources = [self.attention.keys_values(normal, weights)]
            for extra in merged.keys_values:
                if isinstance(extra, Stream):
                    extra = self._project(extra, merged, normal.values.dtype)
                sources.append(extra)
            others = sum(source.key.shape[1] for source in sources[1:])
            masks: list[Mask | Sight] = []
            if self.causal:
                own_size = parts[0].length
                extras = normal.length - own_size
                masks.append(causal(own_size, extras, others, self.readouts))
            shown = [parts[0], *(as_added(part) for part in parts[1:])]
            read = [*shown, *(source.tokens for source in sources[1:])]
            rules = self._rules(read, merged)
            if rules:
                readers, readable = described(shown), described(read)
                masks += [seen_by(rule, readers, readable) for rule in rules]
            masks = [_of_chosen(mask, chosen) for mask in masks]
            query = self.attention.queries(take_stream(normal, chosen), weights)
            return self.attention.read(
                query, sources, masks=masks, weights=weights, context=context
            )

        return own

    def _rules(self, read: list[Stream], merged: Merged) -> list[MaskRule]:
        """The layer's own, if it forbids anything, then those of operators."""
        packed = any(stream.segment is not None for stream in read)
        return [*([self.rule] if self.ruled or packed else []), *merged.masks]

    def _project(self, extra: Stream, merged: Merged, dtype: jnp.dtype) -> KeyValue:
        """Extra keys and values from tokens, normalised and projected as the layer's own."""
        extra = extra.clean()
        values = extra.values.astype(dtype)
        deltas = [delta for delta in merged.norm.get("attention", ()) if delta.scale.ndim < 3]
        values = self.attention_norm(values, deltas)
        return self.attention.keys_values(extra.with_(values=values), merged.deltas("attention"))

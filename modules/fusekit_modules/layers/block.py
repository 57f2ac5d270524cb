"""The pre-norm transformer block, which obeys every hook of `fusekit.layered.Edit`."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import Edits, KeyValue, LayerOutput, MaskRule, NormDelta
from fusekit.stream import Stream, concatenate
from fusekit_modules.layers.activation import ActivationName
from fusekit_modules.layers.attend import Attend
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.choose import Chosen, alone, route, take, take_stream
from fusekit_modules.layers.dropout import Kept, drop_path_factor, dropout
from fusekit_modules.layers.edits import Merged, merge
from fusekit_modules.layers.mask_rule import Rule, as_added, described
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import NormName, norm
from fusekit_modules.layers.sight import Mask, Sight


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


def fitted(delta: NormDelta, length: int, chosen: Chosen | None) -> NormDelta:
    """A delta of every token `[b, t, d]` for the chosen tokens; zeros for tokens after the
    stream's own. Others as they are."""
    if delta.scale.ndim < 3:
        return delta

    def one(x: Array) -> Array:
        return take(jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0))), chosen)

    return NormDelta(one(delta.scale), one(delta.bias))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020, pre-LN).

    Extra tokens stand after the stream's own and are processed with the same weights; edits by
    label cover readout tokens of that label, and edits of all tokens cover extra tokens too.

    Args:
      width: size of the tokens.
      heads: attention heads.
      hidden: width inside the feed-forward sublayer.
      depth: layers of the stack, over which `drop_path` grows from 0 linearly.
      causal: tokens read only what stands before them; see `causal`.
      readouts: how many of the first tokens are readout tokens; matters where `causal`.
      attend: what the tokens see of one another; extra keys and values are seen by all. Without
        it, all of their own segment.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        depth: int = 1,
        norm_name: NormName = "layer",
        activation: ActivationName = "gelu",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        kept: Kept = "rescaled",
        causal: bool = False,
        readouts: int = 0,
        attend: Attend | None = None,
        rotary: bool = False,
        rngs: nnx.Rngs,
    ):
        self.depth, self.causal, self.readouts = depth, causal, readouts
        self.ruled, self.rule = attend is not None, Rule.of("all" if attend is None else attend)
        self.dropout, self.drop_path = dropout, drop_path
        self.kept: Kept = kept
        self.attention_norm = norm(norm_name, width, rngs=rngs)
        self.attention = Attention(width, heads, rotary=rotary, rngs=rngs)
        self.mlp_norm = norm(norm_name, width, rngs=rngs)
        self.mlp: MLP | None = MLP(width, hidden, activation=activation, rngs=rngs)

    def drop(self, sublayers: frozenset[str]) -> None:
        """Removes the feed-forward network, if it is among them: it is then always replaced."""
        if "mlp" in sublayers:
            self.mlp = None

    def keys_values(self, stream: Stream) -> KeyValue:
        """What this layer's attention would read of a stream that enters it, for other stacks."""
        normal = stream.with_(values=self.attention_norm(stream.values))
        return self.attention.keys_values(normal)

    def reading(
        self, normal: Stream, sources: Sequence[KeyValue], *, context: Context
    ) -> Float[Array, "b n d"]:
        """What tokens that are normalised read of `sources` alone, by this layer's own weights."""
        return self.attention.read(self.attention.queries(normal), sources, context=context)

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context
    ) -> LayerOutput:
        """Structure and dtype of the stream are kept. Extras come back in the order of edits.

        Raises `FusekitError` where edits contradict each other or widths do not fit.
        """
        edits = edits or Edits()
        merged = merge(edits)
        stream = stream if merged.stream is None else merged.stream
        parts = [
            stream,
            *(t.with_(values=t.values.astype(stream.values.dtype)) for t in merged.tokens),
        ]
        for part in parts:
            if part.width != stream.width:
                raise FusekitError(f"tokens of width {part.width} join a stream of {stream.width}")
        whole = parts[0] if len(parts) == 1 else concatenate(parts)
        sizes = dict(zip(("", *edits.bringers()), (part.length for part in parts), strict=True))
        for name, sublayer in (("attention", self._attend), ("mlp", self._feed)):
            normal = whole.with_(values=self._normal(name, whole, merged))
            own = sublayer(normal, parts, merged, context)
            update = route(
                normal,
                own,
                skip=merged.skip.get(name, ()),
                replace=merged.replace.get(name),
                residual=merged.residual.get(name, ()),
            )
            update = self._drop(update.astype(whole.values.dtype), sizes, name, context)
            whole = whole.with_(values=whole.values + update)
            for branch in merged.then.get(name, ()):
                whole = whole.with_(values=whole.values + alone(whole, branch))
        return self._split(stream, whole.values, sizes, edits)

    def _normal(self, name: str, whole: Stream, merged: Merged) -> Float[Array, "b n d"]:
        """The normalised input of a sublayer."""
        own = self.attention_norm if name == "attention" else self.mlp_norm
        deltas = merged.norm.get(name, ())
        return route(
            whole,
            lambda chosen: own(
                take(whole.values, chosen), [fitted(d, whole.length, chosen) for d in deltas]
            ),
            skip=merged.skip.get(f"{name}_norm", ()),
            replace=merged.replace.get(f"{name}_norm"),
            residual=merged.residual.get(f"{name}_norm", ()),
            skipped=whole.values,
        )

    def _attend(
        self, normal: Stream, parts: list[Stream], merged: Merged, context: Context
    ) -> Callable[[Chosen | None], Array]:
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

    def _feed(
        self, normal: Stream, parts: list[Stream], merged: Merged, context: Context
    ) -> Callable[[Chosen | None], Array]:
        """The feed-forward sublayer of the chosen tokens; zeros if it was dropped."""

        def own(chosen: Chosen | None) -> Array:
            x = take(normal.values, chosen)
            return jnp.zeros_like(x) if self.mlp is None else self.mlp(x, merged.deltas("mlp"))

        return own

    def _drop(self, update: Array, sizes: dict[str, int], name: str, context: Context) -> Array:
        """Dropout, part by part so that no operator's tokens change the randomness of others, and
        drop-path, the same for all tokens of a sample."""
        if not context.training:
            return update
        pieces, at = [], 0
        for bringer, size in sizes.items():
            piece = update[:, at : at + size]
            purpose = f"{name}.dropout" + (f".extra.{bringer}" if bringer else "")
            pieces.append(dropout(piece, self.dropout, context=context, purpose=purpose))
            at += size
        update = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=1)
        factor = drop_path_factor(
            update.shape[0],
            self.drop_path,
            self.depth,
            context=context,
            kept=self.kept,
            purpose=f"{name}.drop_path",
        )
        return update if factor is None else update * factor.astype(update.dtype)

    def _split(
        self, stream: Stream, values: Array, sizes: dict[str, int], edits: Edits
    ) -> LayerOutput:
        """The stream and each edit's extra tokens, in their own dtype."""
        extras: list[Stream | None] = []
        at, names = sizes[""], iter(edits.bringers())
        for edit in edits.all:
            if edit.tokens is None:
                extras.append(None)
                continue
            size = sizes[next(names)]
            part = values[:, at : at + size].astype(edit.tokens.values.dtype)
            extras.append(edit.tokens.with_(values=part))
            at += size
        return LayerOutput(stream.with_(values=values[:, : sizes[""]]), tuple(extras))

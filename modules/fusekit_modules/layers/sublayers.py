"""The pre-norm residual block, whatever its first sublayer mixes tokens with; it obeys the hooks of
`fusekit.layered.Edit`."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import Edits, LayerOutput, NormDelta
from fusekit.stream import Stream, concatenate
from fusekit_modules.layers.activation import ActivationName
from fusekit_modules.layers.choose import Chosen, Own, alone, route, take
from fusekit_modules.layers.dropout import Kept, drop_path_factor, dropout
from fusekit_modules.layers.edits import Merged, merge
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import LayerNorm, NormName, RMSNorm, norm


def fitted(delta: NormDelta, length: int, chosen: Chosen | None) -> NormDelta:
    """A delta of every token `[b, t, d]` for the chosen tokens; zeros for tokens after the
    stream's own. Others as they are."""
    if delta.scale.ndim < 3:
        return delta

    def one(x: Array) -> Array:
        return take(jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0))), chosen)

    return NormDelta(one(delta.scale), one(delta.bias))


class Sublayers(nnx.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) (Xiong et al. 2020, pre-LN). Subclasses give the
    mixer of tokens and its norm, which hooks call `attention` whatever it is.

    Extra tokens stand after the stream's own and are processed with the same weights; edits by
    label cover readout tokens of that label, and edits of all tokens cover extra tokens too.

    Args:
      width: size of the tokens.
      hidden: width inside the feed-forward sublayer.
      depth: layers of the stack, over which `drop_path` grows from 0 linearly.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        depth: int = 1,
        norm_name: NormName = "layer",
        activation: ActivationName = "gelu",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        kept: Kept = "rescaled",
        rngs: nnx.Rngs,
    ):
        self.depth = depth
        self.dropout, self.drop_path = dropout, drop_path
        self.kept: Kept = kept
        self.mlp_norm = norm(norm_name, width, rngs=rngs)
        self.mlp: MLP | None = MLP(width, hidden, activation=activation, rngs=rngs)

    def mixing_norm(self) -> LayerNorm | RMSNorm:
        """The norm of what enters the mixer."""
        raise NotImplementedError

    def mixing(self, normal: Stream, parts: list[Stream], merged: Merged, context: Context) -> Own:
        """The mixer over all tokens, `normal`; `parts` are the stream and the extra tokens, as
        they came."""
        raise NotImplementedError

    def drop(self, sublayers: frozenset[str]) -> None:
        """Removes the feed-forward network, if it is among them: it is then always replaced."""
        if "mlp" in sublayers:
            self.mlp = None

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
        for name, sublayer in (("attention", self.mixing), ("mlp", self._feed)):
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
        own = self.mixing_norm() if name == "attention" else self.mlp_norm
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

    def _feed(self, normal: Stream, parts: list[Stream], merged: Merged, context: Context) -> Own:
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

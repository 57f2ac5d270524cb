"""A stack of blocks inside one component, for what has no points of its own."""

from dataclasses import replace

from flax import nnx

from fusekit.context import Context
from fusekit.layered import Edits
from fusekit.stream import Stream
from fusekit_modules.layers.block import Block
from fusekit_modules.layers.norm import norm


class Tower(nnx.Module):
    """Blocks run one after another, then a norm; `settings` go to every `Block`."""

    def __init__(self, width: int, heads: int, *, depth: int, rngs: nnx.Rngs, **settings):
        self.layers = nnx.List(
            [Block(width, heads, depth=depth, rngs=rngs, **settings) for _ in range(depth)]
        )
        self.norm = norm(settings.get("norm_name", "layer"), width, rngs=rngs)

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context, name: str = "tower"
    ) -> Stream:
        """Every layer gets the same edits. Randomness depends on the path of the component, its
        place, `name` and the layer."""
        if context.key is not None:
            context = replace(context, key=context.rng(name))
        for index, layer in enumerate(self.layers):
            at = context.at(f"{context.path}.{name}", index)
            stream = layer(stream, edits, context=at).stream
        return stream.with_(values=self.norm(stream.values))

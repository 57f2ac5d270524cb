"""The pre-norm block whose mixer scans over time."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.stream import Stream, concatenate
from fusekit_modules.layers.begins import Marks, Resets
from fusekit_modules.layers.choose import Chosen, Own, take
from fusekit_modules.layers.edits import Merged
from fusekit_modules.layers.mask_rule import as_added
from fusekit_modules.layers.norm import LayerNorm, NormName, RMSNorm, norm
from fusekit_modules.layers.scan import ScanSettings
from fusekit_modules.layers.selective import Selective
from fusekit_modules.layers.ssd import SSD
from fusekit_modules.layers.sublayers import Sublayers

ScanName = Literal["ssd", "selective"]
SCANS: dict[str, type[SSD] | type[Selective]] = {"ssd": SSD, "selective": Selective}
"""Mixers by name, which is also that of their parameters. Each is built from a width, the heads of
attention and `ScanSettings`, and called with tokens in the order of the scan, the marks at which it
begins anew, and weight deltas."""
REFUSED = frozenset({"keys_values", "mask"})
"""Hooks that mean nothing to a scan."""


class ScanBlock(Sublayers):
    """x + scan(norm(x)), then x + mlp(norm(x)); see `Sublayers`.

    Where `causal`, the scan meets extra tokens first, then the stream's own, then its readout
    tokens: so extra tokens are read by all and read one another only, and readout tokens read all
    and are read by none, as in attention. Otherwise time is read in both ways, as tokens stand.
    Tokens that skip the mixer or have it replaced are read all the same.

    Args:
      mixer: one of `SCANS`.
      width: size of the tokens.
      heads: attention heads of this width; see `ScanSettings.expand`.
      scan: settings of the mixer.
      readouts: how many of the first tokens are readout tokens; matters where `causal`.
      settings: as of `Sublayers`.
    """

    def __init__(
        self,
        mixer: ScanName,
        width: int,
        heads: int,
        *,
        scan: ScanSettings,
        norm_name: NormName = "layer",
        causal: bool = False,
        readouts: int = 0,
        rngs: nnx.Rngs,
        **settings: Any,
    ):
        self.mixer, self.causal, self.readouts = mixer, causal, readouts
        self.resets: Resets = scan.resets or "segment"
        self.scan_norm = norm(norm_name, width, rngs=rngs)
        setattr(self, mixer, SCANS[mixer](width, heads, scan, both=not causal, rngs=rngs))
        super().__init__(width, norm_name=norm_name, rngs=rngs, **settings)

    def mixing_norm(self) -> LayerNorm | RMSNorm:
        return self.scan_norm

    def mixing(self, normal: Stream, parts: list[Stream], merged: Merged, context: Context) -> Own:
        """Raises `FusekitError` for what a scan cannot do."""
        if merged.masks or merged.keys_values:
            raise FusekitError(
                f"{context.path}: a layer that scans has no keys: it takes no masks and no extra "
                "keys and values"
            )

        def own(chosen: Chosen | None) -> Array:
            streams, at = [], 0
            for number, part in enumerate(parts):
                values = normal.values[:, at : at + part.length]
                streams.append((as_added(part) if number else part).with_(values=values))
                at += part.length
            order = self._order(streams)
            shown = order[0] if len(order) == 1 else concatenate(order)
            weights = merged.deltas(self.mixer)
            marks = Marks.of(shown, self.resets)
            mixed = getattr(self, self.mixer)(shown, marks, weights, context=context)
            return take(self._back(mixed, streams), chosen)

        return own

    def _order(self, streams: Sequence[Stream]) -> list[Stream]:
        """The tokens in the order in which the scan is to meet them."""
        first, extras = streams[0], list(streams[1:])
        if not self.causal:
            return [first, *extras]
        if not self.readouts:
            return [*extras, first]
        data = first.cut(self.readouts, first.length)
        return [*extras, data, first.cut(0, self.readouts)]

    def _back(self, values: Array, streams: Sequence[Stream]) -> Float[Array, "b t d"]:
        """What the scan gave, in the order in which the tokens stand."""
        if not self.causal:
            return values
        own = streams[0].length
        extras = values.shape[1] - own
        ends = [0, extras, extras + own - self.readouts, extras + own]
        before, data, readouts = (values[:, a:b] for a, b in pairwise(ends))
        return jnp.concatenate([readouts, data, before], axis=1)

"""Low-rank deltas of a stack's projections."""

from collections.abc import Sequence
from typing import Any, Literal

from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Count, OperatorSpec, Positive, Signatures, register
from fusekit.context import Context
from fusekit.layered import Edit, LowRank, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.expect import expect_sequence
from fusekit_modules.layers.projections import AXES, Sizes, targeted


@register
class LoraSpec(OperatorSpec):
    """x W + (alpha / rank) x A B at chosen projections: LoRA (Hu et al. 2022, section 4.1).

    B starts at zero, so that nothing changes at first. Targets are sublayers, `attention` and
    `feed_forward`, or one projection, such as `attention.query`. What becomes of W is a matter of
    `train.trainable`.
    """

    uniform = True
    needs = frozenset({"weights"})
    reads_inputs = False
    type: Literal["lora"] = "lora"
    rank: Count = Field(8, description="columns of A")
    alpha: Positive | None = Field(None, description="scale times rank; default the rank")
    targets: tuple[str, ...] = Field(
        ("attention.query", "attention.value"), min_length=1, description="which projections"
    )

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for targets that the layers lack."""
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
            targeted(self.targets, stream, f"into {number}")
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return Lora(self, streams, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        both = ["attention", "feed_forward"]
        return [{"rank": 2}, {"rank": 2, "alpha": 4, "targets": both, "share": True}]


class Factors(nnx.Module):
    """A `[in, rank]` and B `[rank, out]` of one projection."""

    def __init__(self, name: str, inputs: int, outputs: int, rank: int, *, rngs: nnx.Rngs):
        inward, outward = AXES.get(name, ("embed", None))
        init, zeros = initializers.lecun_normal(), initializers.zeros
        self.a = parameter(rngs, init, (inputs, rank), (inward, None))
        self.b = parameter(rngs, zeros, (rank, outputs), (None, outward))


class Lora(Operator):
    """The factors of one place, by stream and projection."""

    def __init__(self, spec: LoraSpec, streams: tuple[Signature, ...], *, rngs: nnx.Rngs):
        self.scale = (spec.alpha or spec.rank) / spec.rank
        every: list[Sizes] = [targeted(spec.targets, s, "the stack") for s in streams]
        self.names = tuple(tuple(sizes) for sizes in every)
        self.factors = nnx.List(
            nnx.List([Factors(name, *size, spec.rank, rngs=rngs) for name, size in sizes.items()])
            for sizes in every
        )

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        edits = []
        for names, factors in zip(self.names, self.factors, strict=True):
            pairs = zip(names, factors, strict=True)
            weights = {name: LowRank(f.a[...], f.b[...], self.scale) for name, f in pairs}
            edits.append(Edit(weights=weights))
        return tuple(edits), state

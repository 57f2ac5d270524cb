"""Some tokens of several sequences, drawn at random."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, FusionSpec, Outputs, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, concatenate, concatenate_signatures, sequence
from fusekit_modules.fusion._compress import label_of
from fusekit_modules.fusion._draw import drawn
from fusekit_modules.heads._tokens import data_signature, data_tokens
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.modalities._view import view_key


@register
class SampleTokensSpec(FusionSpec):
    """So many tokens of all inputs together, drawn sample by sample: what a masked autoencoder of
    several modalities sees (MultiMAE, Bachmann et al. 2022, section 3.2; 4M, Mizrahi et al. 2023).

    Shares of the inputs are from a symmetric Dirichlet distribution, rounded as in Webster's method
    so that they add up; of an input, valid tokens are drawn evenly, none twice. Inputs that are
    absent have no share, and what an input lacks goes to the others. Fewer valid tokens than asked
    for leave padding at the end. Evaluation and prediction draw the same tokens for every row, with
    equal shares, by a fixed pattern.

    The output keeps the order and positions of the tokens under one label, those of the inputs
    joined by underscores. Port `hidden`: over the tokens of all inputs one after another, true
    where valid and not drawn; `hidden.image` is the `where` of a loss on the modality `image`. With
    `targets`, port `wanted` alike: true where drawn from what is hidden, by shares of its own.
    Readout tokens are left out. A row is present where any input is.
    """

    type: Literal["sample_tokens"] = "sample_tokens"
    tokens: Count = Field(description="how many are drawn, of all inputs together")
    targets: Count | None = Field(None, description="how many of the others are drawn as targets")
    concentration: float = Field(
        1.0, ge=0.01, le=1e6, description="of the shares: below 1 few inputs, far above 1 equal"
    )

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"tokens": 5}, {"tokens": 3, "targets": 2}]

    def infer(self, inputs: Signatures) -> Outputs:
        """The tokens drawn, and marks over all. Raises `WiringError` for what are no sequences of
        one width, or hold fewer tokens than are drawn."""
        parts, ports = parts_of(inputs), ("hidden",) if self.targets is None else PORTS
        whole, label = concatenate_signatures(parts), label_of([s for p in parts for s in p.spans])
        wanted = self.tokens + (self.targets or 0)
        if wanted > whole.length:
            raise WiringError(
                "more tokens are drawn than the inputs have",
                found=f"{wanted} of {whole.length}",
                expected=f"at most {whole.length}",
                field=("tokens",),
            )
        out = sequence(self.tokens, whole.width, label=label)
        out = out.with_(padded=whole.padded, optional=whole.optional)
        marks = whole.with_(sizes=whole.sizes[:1], dtype="bool")
        return {"out": out, **dict.fromkeys(ports, marks)}

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "SampleTokens":
        return SampleTokens(self, inputs)


PORTS = ("hidden", "wanted")


def parts_of(inputs: Signatures) -> list[Signature]:
    """The inputs without readout tokens. Raises `WiringError`."""
    expect_count(inputs)
    parts = {role: data_signature(expect_sequence(s, role)) for role, s in inputs.items()}
    expect_same(parts, "embed", hint="one width: give the encoders the same")
    for role, part in parts.items():
        if not part.length:
            message, due = f"{role!r} holds readout tokens alone", "tokens that are data"
            raise WiringError(message, found=inputs[role], expected=due, field=("inputs", role))
    return list(parts.values())


class SampleTokens(nnx.Module):
    """`[b, t_k, d] -> [b, tokens, d]`, and marks `[b, sum(t_k)]`."""

    def __init__(self, spec: SampleTokensSpec, inputs: Signatures):
        self.tokens, self.targets = spec.tokens, spec.targets
        self.concentration = spec.concentration
        parts = parts_of(inputs)
        self.sizes = tuple(part.length for part in parts)
        label = label_of([span for part in parts for span in part.spans])
        self.spans = sequence(spec.tokens, 1, label=label).spans

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        whole = concatenate([data_tokens(stream).clean() for stream in streams.values()])
        valid = jnp.ones((whole.batch, whole.length), bool) if whole.mask is None else whole.mask
        concentration = self.concentration if context.training else None
        first, second = jax.random.split(view_key(context, "sample"))
        seen = drawn(first, valid, self.sizes, self.tokens, concentration)
        order = jnp.argsort(~seen, axis=1, stable=True)[:, : self.tokens]
        place = jnp.broadcast_to(whole.positions(), valid.shape)
        out = Stream(
            jnp.take_along_axis(whole.values, order[..., None], axis=1),
            None if whole.mask is None else jnp.take_along_axis(seen, order, axis=1),
            whole.presence,
            position=jnp.take_along_axis(place, order, axis=1),
            spans=self.spans,
        )
        hidden = valid & ~seen
        ports = {"out": out.clean(), "hidden": whole.with_(values=hidden)}
        if self.targets is not None:
            wanted = drawn(second, hidden, self.sizes, self.targets, concentration)
            ports["wanted"] = whole.with_(values=wanted)
        return ports

"""A transformer of learned queries that read the input in every second layer."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from flax import nnx
from pydantic import Field

from fusekit.component import Count, Depth, Rate, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, concatenate
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    data,
    data_bounds,
    fitted,
    joined,
    joined_signature,
    made,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.fusion._latents import Latents, entered, expect_heads
from fusekit_modules.fusion._q_former import QFormerLayer, asked, readable
from fusekit_modules.layers.dropout import dropout
from fusekit_modules.layers.expect import expect_sequence
from fusekit_modules.layers.norm import LayerNorm

TEXT = "text"
T = TypeVar("T")


@register
class QFormerSpec(CompressorSpec):
    """Learned queries that read one another in every layer and the input in every second: the
    querying transformer (BLIP-2, Li et al. 2023, section 3.1). Norms stand after each sum.

    An input by the role `text` shares the self-attention, with an mlp of its own (InstructBLIP, Dai
    et al. 2023, section 2.3); with `text_port` it comes out too. With `window` every so many
    tokens of the input have their own queries, and readout tokens are left out (FAVOR, Sun et al.
    2023). `causal`: queries do not read the text nor later windows, and text does not read later
    text. Absent and padded tokens are not read; without any (in a window), queries are padding.
    """

    type: Literal["q_former"] = "q_former"
    tokens: Count = Field(32, description="how many queries, of each window")
    inner: Width | None = Field(None, description="width of the queries; default that going out")
    depth: Depth = Field(12, description="layers")
    every: Count = Field(2, description="of so many layers the first reads the input")
    heads: Count = Field(4, description="attention heads")
    hidden: Width | None = Field(None, description="width within an mlp; default four times")
    causal: bool = Field(False, description="whether nothing reads what comes after it")
    window: Count | None = Field(None, description="tokens of the input that are read together")
    text_port: bool = Field(False, description="whether the text comes out too, as the port text")
    dropout: Rate = Field(0.0, description="of embeddings and of every sublayer's result")

    @property
    def text(self) -> str | None:
        """The role of the text, which only a mapping can give."""
        return TEXT if isinstance(self.inputs, Mapping) and TEXT in self.inputs else None

    def sources(self, reads: Mapping[str, T]) -> dict[str, T]:
        return {role: read for role, read in reads.items() if role != self.text}

    def out_width(self, inputs: Signatures) -> int:
        return super().out_width(self.sources(inputs))

    def infer(self, inputs: Signatures) -> Any:
        """The queries, and the text if it is to come out."""
        out = super().infer(inputs)
        if not self.text_port:
            return out
        text = inputs[TEXT]
        sizes = (("time", text.length), ("embed", self.out_width(inputs)))
        return {"out": out, TEXT: text.with_(sizes=sizes)}

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """Raises `WiringError` for heads or windows that do not divide what they cut, and for text
        that is read by nothing."""
        given = joined_signature(self.sources(reads))
        expect_heads(self.heads, self.inner or width)
        if self.text:
            expect_sequence(reads[TEXT], TEXT)
        if self.text_port and (self.into or not self.text):
            message = "the text comes out where there is one, and no `into`"
            raise WiringError(message, expected="no text_port", field=("text_port",))
        if self.text and self.causal and not self.text_port:
            message, due = "nothing reads the text", "text_port: true, or causal: false"
            raise WiringError(message, expected=due, field=("causal",))
        return made(given, self.tokens * self.windows(given), width)

    def windows(self, given: Signature) -> int:
        """How many windows there are; none crosses the border of two inputs. Raises `WiringError`
        if they do not divide the length of each."""
        if self.window is None:
            return 1
        start, stop = data_bounds(given.spans)
        sizes = [span.size for span in given.spans if not span.readout]
        if any(size % self.window for size in sizes):
            message, due = "windows do not divide the length", f"a divisor of {sizes}"
            raise WiringError(message, found=self.window, expected=due, field=("window",))
        return (stop - start) // self.window

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "QFormer":
        return QFormer(self, reads, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"tokens": 3, "depth": 3, "heads": 2, "hidden": 4}
        windows = {"depth": 1, "inner": 6, "window": 3, "causal": True, "dropout": 0.1}
        return [{**small, **windows}, small]


class QFormer(Inserting):
    """`[b, t, d] -> [b, windows tokens, width]`, and text `[b, s, e] -> [b, s, width]`."""

    def __init__(self, spec: QFormerSpec, reads: Signatures, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        given, inner = joined_signature(spec.sources(reads)), spec.inner or width
        text = reads[TEXT] if spec.text else None
        self.spec, self.windows = spec, spec.windows(given)
        self.source_norm = LayerNorm(given.width, rngs=rngs)
        self.source_proj = fitted(given.width, inner, rngs=rngs)
        self.text_proj = None if text is None else fitted(text.width, inner, rngs=rngs)
        self.queries = Latents(spec.tokens, inner, rngs=rngs)
        self.norm = LayerNorm(inner, rngs=rngs)
        sizes, last = (inner, spec.heads, spec.hidden or 4 * inner), spec.depth - 1 + spec.text_port
        kinds = [(k % spec.every == 0, text is not None and k < last) for k in range(spec.depth)]
        self.layers = nnx.List(
            QFormerLayer(*sizes, reads=reads, text=words, dropout=spec.dropout, rngs=rngs)
            for reads, words in kinds
        )
        self.out = fitted(inner, width, rngs=rngs)

    def __call__(self, streams: Reads, *, context: Context) -> Any:
        x = joined(self.spec.sources(streams))
        x = data(x) if self.spec.window else x
        x = entered(self.source_proj, x.with_(values=self.source_norm(x.values)))
        queries = asked(self.queries(x), x, self.windows)
        n, parts, rate = queries.length, [queries], self.spec.dropout
        if self.spec.text:
            parts.append(entered(self.text_proj, streams[TEXT].clean()))
        h = parts[0] if len(parts) == 1 else concatenate(parts)
        values = dropout(self.norm(h.values), rate, context=context, purpose="embed")
        h, mask = h.with_(values=values).clean(), readable(n, h.length, self.windows)
        for index, layer in enumerate(self.layers):
            at = context.at(f"{context.path}.layers", index)
            h = layer(h, x, n, self.windows, mask if self.spec.causal else None, context=at)
        values = h.values if self.out is None else self.out(h.values)
        out = queries.with_(values=values[:, :n]).clean()
        if not self.spec.text_port:
            return out
        return {"out": out, TEXT: streams[TEXT].with_(values=values[:, n:]).clean()}

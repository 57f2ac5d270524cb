"""What all encoders made of transformer blocks share: fields, layers, and the final norm."""

from typing import Annotated, Any, ClassVar, Literal

from flax import nnx
from pydantic import Field

from fusekit.component import Count, Depth, Positive, Rate, StackSpec
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import HOOKS
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.activation import ActivationName
from fusekit_modules.layers.attend import Attend, check_attend
from fusekit_modules.layers.block import Block
from fusekit_modules.layers.check_scan import check_scan, check_scanned
from fusekit_modules.layers.dropout import Kept
from fusekit_modules.layers.entry import PositionsName
from fusekit_modules.layers.norm import NormName, norm
from fusekit_modules.layers.scan import ScanSettings
from fusekit_modules.layers.scan_block import REFUSED, SCANS, ScanBlock, ScanName

Mixer = Literal["attention"] | ScanName


class BlocksSpec(StackSpec):
    """Root of the transformer encoders. Subclasses give `infer_start` and `build`."""

    hooks: ClassVar[frozenset[str]] = frozenset(HOOKS)
    remat_names: ClassVar[tuple[str, ...]] = ("attention", "mlp", "projections", "scan")
    uniform: ClassVar[bool] = True

    depth: Depth = Field(4, description="layers")
    heads: Count = Field(4, description="attention heads; they divide the width")
    mlp_ratio: Positive = Field(4.0, description="width inside the feed-forward, by the width")
    activation: ActivationName = Field("gelu", description="of the feed-forward")
    norm: NormName = Field("layer", description="layer or root mean square norm")
    dropout: Rate = Field(0.0, description="of embeddings and of every sublayer's result")
    drop_path: float = Field(0.0, ge=0.0, lt=1.0, description="of the last layer; grows linearly")
    drop_path_kept: Kept = Field("rescaled", description="what happens to a kept branch")
    readout: int = Field(0, ge=0, le=1000, description="learned readout tokens before the others")
    positions: PositionsName = Field(
        "auto",
        description="what is added to tokens; auto: learned for what comes from the batch, keep "
        "for what another node has embedded",
    )
    causal: bool = Field(False, description="tokens read only what stands before them")
    attend: Attend | None = Field(None, description="what tokens see; default all")
    mixer: Mixer | Annotated[tuple[Mixer, ...], Field(min_length=1)] = Field(
        "attention", description="what mixes tokens: of all layers, or of each in turn, repeated"
    )
    scan: ScanSettings = Field(
        default_factory=ScanSettings, description="of layers that scan: ssd, selective"
    )

    def layers(self) -> int:
        return self.depth

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """What mixes tokens, of each layer in turn."""
        return self.mixer if isinstance(self.mixer, tuple) else (self.mixer,)

    def layer_kind(self, index: int) -> Mixer:
        return self.mixers[index % len(self.mixers)]

    def layer_hooks(self, index: int) -> frozenset[str]:
        return self.hooks - REFUSED if self.layer_kind(index) in SCANS else self.hooks

    def added(self, inputs: Signature) -> PositionsName:
        """The positions to add, with `auto` decided."""
        if self.positions != "auto":
            return self.positions
        raw = self.input is None or self.input.name == "batch" or inputs.dtype != "float"
        return "learned" if raw else "keep"

    def checked(self, start: Signature) -> Signature:
        """The signature, if the heads divide its width and the mixers are used as they can be.
        Raises `WiringError`."""
        if start.width % self.heads:
            raise WiringError(
                "the heads do not divide the width",
                found=f"{self.heads} heads, width {start.width}",
                expected=f"a divisor of {start.width}",
                field=("heads",),
            )
        if len(self.mixers) > self.depth:
            raise WiringError(
                "there are more mixers than layers",
                found=f"{len(self.mixers)} mixers, {self.depth} layers",
                expected="one for each layer, or fewer, which repeat",
                field=("mixer",),
            )
        check_scan(
            self.scan,
            self.mixers,
            start,
            heads=self.heads,
            rotary=self.positions == "rotary",
            readouts=self.readout,
        )
        return start

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        """The stream as it is. Raises `WiringError` for an `attend` that does not fit its labels
        or that a layer cannot obey, and for several items of which nothing is said."""
        if self.attend is not None and self.causal:
            message = "`causal` and `attend` both say what tokens see"
            raise WiringError(message, expected="one of them", field=("causal",))
        if self.layer_kind(index) in SCANS:
            check_scanned(self.scan, self.attend, stream)
            return stream
        items = [span.label for span in stream.spans if span.items > 1]
        if items and self.attend is None:
            raise WiringError(
                f"it is not said whether items of {items[0]} see one another",
                found=stream,
                expected="attend: item, or all",
                field=("attend",),
            )
        check_attend(self.attend, [stream], [stream])
        return stream

    def projections(self, index: int, stream: Signature) -> dict[str, tuple[int, int]]:
        width, hidden, kind = stream.width, self.hidden(stream.width), self.layer_kind(index)
        if kind in SCANS:
            own = SCANS[kind].projections(width, self.heads, self.scan)
        else:
            own = dict.fromkeys(("query", "key", "value", "out"), (width, width))
        found = {f"{kind}.{name}": sizes for name, sizes in own.items()}
        return {**found, "mlp.up": (width, hidden), "mlp.down": (hidden, width)}

    def hidden(self, width: int) -> int:
        """Width inside the feed-forward."""
        return max(round(width * self.mlp_ratio), 1)

    def build_layer(self, index: int, stream: Signature, *, rngs: nnx.Rngs) -> Block | ScanBlock:
        kind = self.layer_kind(index)
        settings: dict[str, Any] = {
            "hidden": self.hidden(stream.width),
            "depth": self.depth,
            "norm_name": self.norm,
            "activation": self.activation,
            "dropout": self.dropout,
            "drop_path": self.drop_path,
            "kept": self.drop_path_kept,
            "causal": self.causal,
            "readouts": self.readout,
            "rngs": rngs,
        }
        if kind != "attention":
            return ScanBlock(kind, stream.width, self.heads, scan=self.scan, **settings)
        rotary = self.positions == "rotary"
        return Block(stream.width, self.heads, attend=self.attend, rotary=rotary, **settings)

    def build_end(self, stream: Signature, *, rngs: nnx.Rngs) -> nnx.Module:
        return End(self.norm, stream.width, rngs=rngs)


class End(nnx.Module):
    """The norm after the last layer."""

    def __init__(self, name: NormName, width: int, *, rngs: nnx.Rngs):
        self.norm = norm(name, width, rngs=rngs)

    def __call__(self, stream: Stream, *, context: Context) -> Stream:
        return stream.with_(values=self.norm(stream.values))

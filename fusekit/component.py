"""What a component is: a frozen spec with `infer` and `build`, beside an NNX module.

The spec is what a config declares. `infer` is pure Python over `Signature`s and complains with
`WiringError`. `build` gives an ordinary NNX module that takes the spec's fields as its settings.

Streams reach a component as a mapping. A field of type `Ref` arrives under the field's name
(`input`, `prediction`, `target`); the entries of `inputs` arrive under their role, if `inputs` is
a mapping, or under the text of the reference, in order.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, SerializeAsAny, field_validator

from fusekit.config.base import Declared
from fusekit.config.frozen import FrozenDict
from fusekit.config.reference import Into, Ref, Reference, Refs
from fusekit.config.registry import register
from fusekit.config.union import OneOf
from fusekit.data.missing import Missing
from fusekit.data.split import AsGiven, NoSplitError, Split, Told
from fusekit.errors import WiringError
from fusekit.stream import Signature

if TYPE_CHECKING:
    import numpy as np
    from flax import nnx

    from fusekit.data.rows import Rows, View

__all__ = [
    "Coupling",
    "EncoderSpec",
    "FusionSpec",
    "HeadSpec",
    "LossSpec",
    "LossValue",
    "MetricSpec",
    "ModalitySpec",
    "OperatorSpec",
    "OptimizerSpec",
    "ScheduleSpec",
    "SourceSpec",
    "StackSpec",
    "TransformSpec",
    "register",
]

Coupling = Literal["none", "train", "always"]
Remat = Literal["none", "full", "dots", "names", "offload"]
Signatures = Mapping[str, Signature]
Outputs = Signature | dict[str, Signature]
"""One signature, or several by port name; the node's own value is the port `out`."""

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Depth = Annotated[int, Field(ge=1, le=2_000)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e12)]


class Component(Declared):
    """Root of every spec. Subclasses give `type: Literal["name"] = "name"` and register."""

    slot: ClassVar[str]
    couples: ClassVar[Coupling] = "none"
    """Whether a sample's result may depend on other samples of the batch: never, in training
    only (batch statistics), or always (in-batch contrast)."""
    couples_because: ClassVar[str] = ""

    type: Any

    def coupling(self) -> Coupling:
        """`couples`, or `none` where these settings do without what couples."""
        return self.couples

    def references(self) -> Iterator[tuple[tuple[str | int, ...], str, Reference]]:
        """Every reference of the spec as (field path, role, reference)."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Reference):
                yield (name,), name, value
            elif isinstance(value, Mapping):
                for role, item in value.items():
                    if isinstance(item, Reference):
                        yield (name, role), role, item
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, Reference):
                        yield (name, index), str(item), item

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Field values with which the conformance suite tries the component, besides defaults."""
        return [{}]

    @classmethod
    def example_inputs(cls) -> list[dict[str, str]]:
        """Streams that fit the examples, as kinds of `fusekit.conformance.cases.KINDS` by role,
        where the suite cannot know the roles; none: it tries what the slot has."""
        return []


class NodeSpec(Component):
    """A component that is a node of the graph, with a name that others can refer to."""

    link: ClassVar[Literal["none", "softmax", "sigmoid", "inputs"]] = "none"
    """What makes probabilities of its values, over the last axis. `inputs`, of a fusion that
    combines answers: what makes them of those (see `fusekit.graph.link`)."""

    keep: bool = Field(
        False,
        description="allow that nothing uses this node; of an operator, keep the sublayers that it"
        " replaces",
    )

    def points(self) -> int:
        """How many points `@0 .. @n-1` a node without layers has: its outputs `@k`. 0: none."""
        return 0

    def infer(self, inputs: Signatures) -> Outputs:
        """What comes out for these inputs. Raises `WiringError`."""
        raise NotImplementedError

    def build(self, inputs: Signatures, *, rngs: "nnx.Rngs") -> "nnx.Module":
        """The module: `module(streams, *, context) -> Stream | dict[str, Stream]`."""
        raise NotImplementedError


class ModalitySpec(NodeSpec):
    """What one entry of a batch is. With `of` it is a view, computed from another modality."""

    slot: ClassVar[str] = "modality"

    optional: bool = Field(False, description="samples may lack it")
    of: Ref | None = Field(None, description="the modality that this view is made from")

    def signature(self) -> Signature:
        """Of the entry as it stands in a batch (not for views)."""
        raise NotImplementedError

    def collate(self, rows: "list[Any]") -> "tuple[np.ndarray, np.ndarray | None]":
        """Host side: raw values of the present rows -> (values, mask), padded to the declared
        sizes. Raises `DataError` naming the row for what does not fit."""
        raise NotImplementedError

    def infer(self, inputs: Signatures) -> Outputs:
        """For a view, from {"of": ...}; otherwise the batch entry as it is."""
        return self.signature()

    def build(self, inputs: Signatures, *, rngs: "nnx.Rngs") -> "nnx.Module":
        raise NotImplementedError(f"{self.type} is not a view")


class EncoderSpec(NodeSpec):
    """Turns a stream into features. Without `input` it reads `batch.<its own name>`."""

    slot: ClassVar[str] = "encoder"

    input: Ref | None = Field(None, description="what it reads; default batch.<its own name>")


class Layered:
    """Contract of nodes with layers, shared by stacks and operators.

    The node's module holds what is not of one layer; `build_layer` gives each layer's module.
    Parameters are found under `<node>.<name>` and `<node>.layers.<k>.<name>`.
    """

    uniform: ClassVar[bool] = False
    """Whether all layers of a kind are built alike if the first and the last are: a promise that
    saves building each to see which may share a scan."""

    def layer_kind(self, index: int) -> str:
        """What kind of layer stands at `index`, where a node has several."""
        return ""


class StackSpec(EncoderSpec, Layered):
    """An encoder with points: `start`, then layers, then `end`.

    Its module is called as `module(streams, *, context) -> Stream` and embeds: the point `@input`.
    A layer's module is called as `layer(stream, edits, *, context) -> LayerOutput` (see
    `fusekit.layered`). What nothing reads (layers past the last point read, the end) is not built.
    """

    hooks: ClassVar[frozenset[str]] = frozenset()
    """Which hooks of `fusekit.layered.Edit` the layers obey, or some of them do."""

    remat_names: ClassVar[tuple[str, ...]] = ()
    """What its layers name by `jax.ad_checkpoint.checkpoint_name`: of it `remat` keeps some."""

    remat: Remat | None = Field(
        None, description="what layers compute again in the backward pass; default as the mesh says"
    )

    def layers(self) -> int:
        raise NotImplementedError

    def layer_hooks(self, index: int) -> frozenset[str]:
        """Which of `hooks` layer `index` obeys."""
        return self.hooks

    def infer_start(self, inputs: Signatures) -> Signature:
        raise NotImplementedError

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        return stream

    def infer_end(self, stream: Signature) -> Signature:
        return stream

    def build_layer(self, index: int, stream: Signature, *, rngs: "nnx.Rngs") -> "nnx.Module":
        """Layer `index` for a running stream of this signature."""
        raise NotImplementedError

    def projections(self, index: int, stream: Signature) -> dict[str, tuple[int, int]]:
        """Sizes (in, out) of the projections of layer `index` that obey the hook `weights`, by
        their names there, for a running stream of this signature."""
        return {}

    def build_end(self, stream: Signature, *, rngs: "nnx.Rngs") -> "nnx.Module | None":
        """What stands after the last layer, called as `end(stream, *, context) -> Stream`; `None`:
        nothing. It is built only if the end of the stack is read."""
        return None

    def infer(self, inputs: Signatures) -> Outputs:
        stream = self.infer_start(inputs)
        for index in range(self.layers()):
            stream = self.infer_layer(index, stream)
        return self.infer_end(stream)


Absent = Literal["skip", "mask", "learned", "predicted", "renormalise"]


class FusionSpec(NodeSpec):
    """Where streams meet. Each fusion documents what absence of an input means to it."""

    slot: ClassVar[str] = "fusion"

    rivals: ClassVar[tuple[str, ...]] = ()
    """Types that serve the same end in the same place: a plan says if one is cheaper."""

    inputs: Refs = Field((), description="what it reads: a list, or a mapping where roles differ")


class OperatorSpec(FusionSpec, Layered):
    """A fusion that edits streams in place, at the layers that `into` names.

    Its module is a `fusekit.layered.Operator`. `build_layer` gives one place's module, with its
    own weights, or `None` where one module serves all places.
    """

    into: Into | None = Field(None, description="the places that it edits, such as image@3..")
    share: bool = Field(False, description="one set of weights for all places")

    needs: ClassVar[frozenset[str]] = frozenset()
    """Which hooks the edited stacks must have."""
    replaces: ClassVar[frozenset[str]] = frozenset()
    """Which sublayers it replaces (`attention`, `mlp`): at one layer no two operators may."""
    reads_inputs: ClassVar[bool] = True
    """Whether it reads `inputs` besides the streams that it edits; if not, giving any is wrong."""
    port_names: ClassVar[tuple[str, ...]] = ()
    """Names of the other outputs of each place; `infer_ports` gives their signatures."""

    def infer(self, inputs: Signatures) -> Outputs:
        """Without `into`; an operator that also makes a new stream overrides this."""
        raise WiringError(
            f"{self.type} edits streams in place",
            expected="into: the layers that it edits, such as image@3..",
            field=("into",),
        )

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """What the edited streams are afterwards. Raises `WiringError`, in whose text `into 0` is
        the first place."""
        return streams

    def covers(self, stream: Signature, *, extra: bool) -> bool:
        """Whether what it `replaces` is replaced for all tokens of an edited stream, so that the
        layer needs no weights for it; `extra` says whether other operators bring tokens there."""
        return False

    def infer_ports(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> dict[str, Signature]:
        """Other outputs of each place, by port name."""
        return {}

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: "nnx.Rngs"
    ) -> "nnx.Module":
        """What is not of one place. By default nothing; with `share` the module of all places."""
        from fusekit.layered import Operator

        made = self.build_layer(0, streams, reads, rngs=rngs) if self.share else None
        return Operator() if made is None else made

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: "nnx.Rngs"
    ) -> "nnx.Module | None":
        return None


class HeadSpec(NodeSpec):
    """Reads a stream out: logits, values, projections."""

    slot: ClassVar[str] = "head"
    defers: ClassVar[bool] = False
    """Whether its module has a method `deferred`, called as the module is, which may leave the last
    product to losses: it gives a `Stream`, or a `fusekit.deferred.Deferred`."""

    input: Ref = Field(description="what it reads")


class LossValue(NamedTuple):
    """A loss by row: `total [b]` and `weight [b]`; the loss is sum(total) / sum(weight).

    For a loss over tokens the weight is the row's number of tokens.
    """

    total: Any
    weight: Any


class LossSpec(Component):
    """An objective. Its module is called as `module(streams, *, rows, context) -> LossValue`,
    where `rows [b]` tells which rows have everything that the loss reads."""

    slot: ClassVar[str] = "loss"

    weight: Annotated[float, Field(ge=0.0, le=1e6)] = Field(1.0, description="its share")
    where: Ref | None = Field(None, description="a mask of the positions or rows that count")

    def fuses(self) -> frozenset[str]:
        """Roles under which its module takes a `fusekit.deferred.Deferred` as well as a stream."""
        return frozenset()

    def check(self, inputs: Signatures) -> None:
        """Raises `WiringError` if the inputs do not fit."""

    def build(self, inputs: Signatures, *, rngs: "nnx.Rngs") -> "nnx.Module":
        raise NotImplementedError


class MetricSpec(Component):
    """A figure of merit, computed on the host in float64 from what evaluation gathered.

    `compute(columns, rows)` gets NumPy arrays by role and a boolean `rows`; only true rows count.
    """

    slot: ClassVar[str] = "metric"

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def check(self, inputs: Signatures) -> None:
        """Raises `WiringError` if the inputs do not fit."""

    def compute(self, columns: "Mapping[str, np.ndarray]", rows: "np.ndarray") -> float:
        raise NotImplementedError


class TransformSpec(Component):
    """Changes raw rows on the host: `apply(row, rng) -> row`, with a NumPy generator.

    A row maps modalities to raw values and holds only what is present. `apply` gives a new
    mapping; arrays are not changed in place. The generator belongs to the row, the epoch and the
    transform's name, so adding a transform changes nobody else's randomness.
    """

    slot: ClassVar[str] = "transform"

    when: Literal["train", "always"] = Field("train", description="in training only, or always")

    def touches(self) -> tuple[str, ...] | None:
        """The modalities that `apply` changes or reads; None for any. Others are read faster."""
        return None

    def apply(self, row: dict[str, Any], rng: "np.random.Generator") -> dict[str, Any]:
        raise NotImplementedError


class SourceSpec(Component):
    """Where data comes from. Subclasses give `rows`; all else follows from it."""

    slot: ClassVar[str] = "source"

    provides: dict[str, str] = Field(
        default_factory=dict,
        description="which column is which modality: {image: jpg, label: cls}; default same names",
    )
    split: Split = Field(default_factory=AsGiven, description="the protocol: which rows train")
    missing: dict[str, Missing] = Field(
        default_factory=dict, description="modalities taken away from rows, by modality"
    )
    transforms: dict[str, Annotated[SerializeAsAny[TransformSpec], OneOf("transform")]] = Field(
        default_factory=dict, description="changes of raw rows by name, in order"
    )
    annotations: Annotated[dict[str, Path], AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict,
        description="modalities by the files that an annotate stage wrote of this source",
    )
    standardise: tuple[str, ...] = Field(
        (), description="modalities scaled by mean and deviation of each feature in train rows"
    )
    weight: Positive | None = Field(
        None, description="share of the training rows among the sources; default: by size"
    )

    @field_validator("split", mode="before")
    @classmethod
    def _default_protocol(cls, value: Any) -> Any:
        """`split` without a type changes fields of the default protocol."""
        if isinstance(value, Mapping) and "type" not in value:
            default = cls.model_fields["split"].get_default(call_default_factory=True)
            return default.model_dump() | dict(value)
        return value

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> "Rows":
        """All rows, whatever their split. `modalities` are those declared, for sources that make
        up data; others ignore them. Raises `DataError` if the data cannot be read."""
        raise NotImplementedError

    def open(self, split: str, modalities: Mapping[str, ModalitySpec] | None = None) -> "View":
        """The rows of one split by the declared protocol. Raises `DataError`."""
        from fusekit.data.rows import View

        rows = self.rows(modalities or {})
        parts = self.split.parts(self._told(rows))
        if split not in parts:
            raise NoSplitError(split, tuple(parts))
        return View(rows, parts[split])

    def splits(self, modalities: Mapping[str, ModalitySpec] | None = None) -> tuple[str, ...]:
        """The splits that have rows."""
        rows = self.rows(modalities or {})
        return tuple(self.split.parts(self._told(rows)))

    def _told(self, rows: "Rows") -> Told:
        """What a protocol may know of the rows; a modality's name stands for its column too."""
        return Told(
            count=len(rows),
            given=rows.given(),
            repeats=rows.repeats(),
            column=lambda name: rows.column(self.provides.get(name, name)),
        )


class OptimizerSpec(Component):
    """`build(learning_rate) -> optax.GradientTransformation`."""

    slot: ClassVar[str] = "optimizer"

    elementwise: ClassVar[bool] = True
    """Whether each number is updated by itself. If not (norms or factors of whole matrices), the
    optimiser is shown one array a layer, never several layers stacked in one."""

    def build(self, learning_rate: Any) -> Any:
        raise NotImplementedError


class ScheduleSpec(Component):
    """`build(steps) -> optax.Schedule`, for a stage of so many steps."""

    slot: ClassVar[str] = "schedule"

    def build(self, steps: int) -> Any:
        raise NotImplementedError

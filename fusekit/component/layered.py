"""Components with layers: stacks, and operators that edit streams at the layers of stacks."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fusekit.component.base import Outputs, Remat, Signatures
from fusekit.component.node import EncoderSpec, FusionSpec
from fusekit.config.reference import Into
from fusekit.errors import WiringError
from fusekit.stream import Signature

if TYPE_CHECKING:
    from flax import nnx


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

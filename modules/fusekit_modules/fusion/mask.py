"""One more rule of what the tokens of a stack see."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from fusekit.component import OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.layered import Edit, Operator, Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.attend import Attend, check_attend
from fusekit_modules.layers.expect import expect_sequence
from fusekit_modules.layers.mask_rule import Rule


@register
class MaskSpec(OperatorSpec):
    """Narrows what the tokens of a stack see, at the layers that `into` names.

    It intersects with the stack's own `attend` and with other masks. Keys and values that other
    operators bring are not its matter. A token that sees nothing takes no attention.
    """

    uniform = True
    needs = frozenset({"mask"})
    reads_inputs = False
    type: Literal["mask"] = "mask"
    attend: Attend = Field(description="what tokens see")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for labels that do not fit one of them."""
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
            check_attend(self.attend, [stream], [stream])
        return streams

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: Any
    ) -> "Mask":
        return Mask(Rule.of(self.attend))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"attend": "causal"}, {"attend": {"a": ["item", "latest"]}}]


class Mask(Operator):
    """The same rule at every place."""

    def __init__(self, rule: Rule):
        self.rule = rule

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[Any],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        return tuple(Edit(mask=self.rule) for _ in streams), state

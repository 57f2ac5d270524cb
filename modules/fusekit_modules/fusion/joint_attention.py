"""Stacks in lockstep attend together."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from pydantic import Field

from fusekit.component import OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import Edit, KeyValue, Operator, Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.attend import Attend, check_attend
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.layers.mask_rule import Rule, described


@register
class JointAttentionSpec(OperatorSpec):
    """One attention over the tokens of all stacks: MMDiT (Esser 2024, sec. 4), X-Fusion (Mo 2025).

    Every layer keeps its own weights and norms, by which it projects its own tokens, and reads the
    others' keys and values beside its own. No weights of its own. An absent stack is not read.
    Deltas of weights and norms by other operators do not reach what the others read.
    """

    uniform = True
    needs = frozenset({"keys_values", "mask"})
    reads_inputs = False
    rivals: ClassVar[tuple[str, ...]] = ("bottleneck",)

    type: Literal["joint_attention"] = "joint_attention"
    attend: Attend | None = Field(None, description="what tokens see of all stacks; default all")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` unless there are two or more, of one
        width, with labels that fit `attend`."""
        by_role = {f"into {number}": stream for number, stream in enumerate(streams)}
        expect_count(by_role, least=2)
        for role, stream in by_role.items():
            expect_sequence(stream, role, field=("into",))
        expect_same(by_role, "embed", hint="stacks of one width", field=("into",))
        check_attend(self.attend, streams, streams)
        return streams

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: Any
    ) -> "JointAttention":
        labels = [{span.label for span in stream.spans} for stream in streams]
        if self.attend is None:
            return JointAttention([None for _ in streams])
        others = [sorted(set().union(*labels[:n], *labels[n + 1 :])) for n in range(len(labels))]
        return JointAttention([Rule.of(self.attend, others=tuple(names)) for names in others])

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"attend": ["causal", "item"]}]


class JointAttention(Operator):
    """What each layer projects of its own tokens, given to the others."""

    def __init__(self, rules: Sequence[Rule | None]):
        self.rules = tuple(rules)

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[Any],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        """Raises `FusekitError` for layers that do not say what attention would read of them."""
        given: list[KeyValue] = []
        for number, stream in enumerate(streams):
            layer = layers[number]
            if not hasattr(layer, "keys_values"):
                raise FusekitError(f"layers of stack {number} have no `keys_values` for others")
            given.append(layer.keys_values(stream.clean()))
        edits = []
        for number, rule in enumerate(self.rules):
            others = side_by_side(given[:number] + given[number + 1 :])
            edits.append(Edit(keys_values=others, mask=rule))
        return tuple(edits), state


def side_by_side(sources: Sequence[KeyValue]) -> KeyValue:
    """Keys and values of several streams as one. Raises `FusekitError` if heads differ."""
    heads = {source.key.shape[2:] for source in sources}
    if len(heads) > 1:
        raise FusekitError(f"heads differ in number or size: {sorted(heads)}")
    if len(sources) == 1:
        return sources[0]
    return KeyValue(
        jnp.concatenate([source.key for source in sources], axis=1),
        jnp.concatenate([source.value for source in sources], axis=1),
        described([source.tokens for source in sources]),
    )

"""One small operator for each hook of `fusekit.layered.Edit`, as plug-in components.

`hook_<name>` uses that hook alone. With `identity: true` it asks for what changes nothing; without,
it changes the stream, by weights that each place has of its own (a mask rule and skips have none).
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from fusekit.component import OperatorSpec, register
from fusekit.layered import HOOKS, Edit, KeyValue, LowRank, NormDelta
from fusekit.parameter import statistic
from fusekit.stream import Stream
from tests.support import sublayers
from tests.support.place import EXTRA, MATRIX, VECTOR, Passing, Place, extra

RANK = 2


class StreamPlace(Place):
    """Keeps a running mean of what enters, too: an operator may have variables."""

    hook = "stream"
    weights = {"shift": VECTOR}

    def __init__(self, spec: Any, width: int, rngs: nnx.Rngs):
        super().__init__(spec, width, rngs)
        self.mean = statistic(jnp.zeros(width), ("embed",))

    def edit(self, here):
        stream = here.stream
        if here.context.training:
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * jnp.mean(stream.clean().values, (0, 1))
        if self.identity:
            return Edit(stream=stream)
        return Edit(stream=stream.with_(values=stream.values + self.shift[...]))


class TokensPlace(Place):
    """The tokens that come back are the state of the next place."""

    hook = "tokens"
    weights = {"tokens": ((EXTRA, "width"), (None, "embed"))}

    def edit(self, here):
        if self.identity:
            return Edit(tokens=extra(here.state, readable=False))
        return Edit(tokens=extra(jnp.tanh(here.state) + self.tokens[...], readable=True))

    def leave(self, outputs, reads, state, *, context):
        mean = sum(output.extras[0].values for output in outputs) / len(outputs)
        return tuple(output.stream for output in outputs), mean


class KeysValuesPlace(Place):
    """Attention reads what another stack has made, changed by a matrix."""

    hook = "keys_values"
    weights = {"mix": MATRIX}

    def edit(self, here):
        if self.identity:
            return Edit(keys_values=extra(here.stream.values, readable=False))
        other = here.other()
        return Edit(keys_values=other.with_(values=other.values @ self.mix[...]))


class KeyValuePlace(Place):
    """Keys and values already projected, by the layer about to run."""

    hook = "keys_values"
    weights = {"scale": VECTOR}

    def edit(self, here):
        if self.identity:
            source = extra(here.stream.values, readable=False)
        else:
            other = here.other()
            source = other.with_(values=other.values * self.scale[...])
        projected = here.layer.keys_values(source)
        return Edit(keys_values=KeyValue(projected.key, projected.value, source))


class MaskPlace(Place):
    hook = "mask"

    def edit(self, here):
        def rule(queries, keys):
            if self.identity:
                return jnp.ones((queries.length, keys.length), bool)
            return jnp.abs(queries.positions()[..., :, None] - keys.positions()[..., None, :]) < 2

        return Edit(mask=rule)


class NormPlace(Place):
    """Deltas for all samples alike, and deltas of each sample."""

    hook = "norm"
    weights = {"scale": VECTOR, "bias": VECTOR, "own": VECTOR}

    def edit(self, here):
        if self.identity:
            none = jnp.zeros(self.width)
            return Edit(norm={"attention": NormDelta(none, none), "mlp": NormDelta(none, none)})
        by_sample = jnp.tanh(jnp.mean(here.stream.values, 1)) * self.own[...]
        return Edit(
            norm={
                "attention": NormDelta(self.scale[...], self.bias[...]),
                "mlp": NormDelta(by_sample, by_sample),
            }
        )


PROJECTIONS = {
    "attention.query": False,
    "attention.key": True,
    "attention.value": False,
    "attention.out": True,
    "mlp.up": True,
    "mlp.down": False,
}
"""Whether the delta of a projection here is one a sample."""


class WeightsPlace(Place):
    """A low-rank delta of every projection. All are square: `mlp_ratio` must be 1."""

    hook = "weights"
    weights = {
        f"{name.replace('.', '_')}_{part}": form
        for name in PROJECTIONS
        for part, form in {
            "a": (("width", RANK), ("embed", "rank")),
            "b": ((RANK, "width"), ("rank", "embed")),
        }.items()
    }

    def edit(self, here):
        if self.identity:
            a, b = jnp.ones((self.width, RANK)), jnp.zeros((RANK, self.width))
            return Edit(weights=dict.fromkeys(PROJECTIONS, LowRank(a, b)))
        return Edit(weights={name: self.delta(name, here.stream) for name in PROJECTIONS})

    def delta(self, name: str, stream: Stream) -> LowRank:
        a, b = (getattr(self, f"{name.replace('.', '_')}_{part}")[...] for part in "ab")
        if not PROJECTIONS[name]:
            return LowRank(a, b)
        by_sample = jnp.tanh(jnp.mean(stream.values, (1, 2)))[:, None, None] * a
        return LowRank(by_sample, jnp.broadcast_to(b, (stream.batch, *b.shape)), 0.5)


class HookSpec(OperatorSpec):
    """An operator with one hook."""

    place: ClassVar[type[Place]]

    identity: bool = False

    def build_operator(self, streams, reads, *, rngs):
        return Passing()

    def build_layer(self, index, streams, reads, *, rngs):
        return self.place(self, streams[0].width, rngs)


PLACES: dict[str, type[Place]] = {
    "stream": StreamPlace,
    "tokens": TokensPlace,
    "keys_values": KeysValuesPlace,
    "key_value": KeyValuePlace,
    "mask": MaskPlace,
    "norm": NormPlace,
    "replace_attention": sublayers.ReplaceAttentionPlace,
    "replace_mlp": sublayers.ReplaceMlpPlace,
    "replace_norm": sublayers.ReplaceNormPlace,
    "skip_attention": sublayers.SkipAttentionPlace,
    "skip_mlp": sublayers.SkipMlpPlace,
    "skip_norm": sublayers.SkipNormPlace,
    "residual_attention": sublayers.ResidualAttentionPlace,
    "residual_mlp": sublayers.ResidualMlpPlace,
    "residual_norm": sublayers.ResidualNormPlace,
    "then_attention": sublayers.ThenAttentionPlace,
    "then_mlp": sublayers.ThenMlpPlace,
    "weights": WeightsPlace,
}
"""By the name after `hook_`; `key_value` brings keys and values that are projected."""


def _declare(name: str, place: type[Place]) -> None:
    fields = {
        "__module__": __name__,
        "__doc__": f"Uses the hook {place.hook}.",
        "__annotations__": {"type": Literal[f"hook_{name}"]},
        "type": f"hook_{name}",
        "needs": frozenset({place.hook} & set(HOOKS)),
        "place": place,
    }
    register(type(f"Hook{place.__name__}Spec", (HookSpec,), fields))


for _name, _place in PLACES.items():
    _declare(_name, _place)

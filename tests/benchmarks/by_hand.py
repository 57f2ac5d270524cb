"""Five multimodal classifiers as one would write them by hand in plain JAX.

Nothing of fusekit or flax: nested dicts of arrays, `jnp`, and optax. Parameters have the names
and shapes that fusekit's have, so that one set of values serves both; depths follow from them.
Nothing is dropped out.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = Any
IMAGE, AUDIO = (1, 8), (1, 32)
"""The patches."""


def nested(flat: Mapping[str, Any]) -> Params:
    """`{"a.b": x}` as `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        at = tree
        *parents, last = path.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return tree


def norm(p: Params, x: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(centred * centred, -1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-6) * p["scale"] + p["bias"]


def linear(p: Params, x: Any) -> Any:
    return x @ p["kernel"] + p["bias"]


def mlp(p: Params, x: Any) -> Any:
    return linear(p["down"], jax.nn.gelu(linear(p["up"], x), approximate=False))


def attention(p: Params, x: Any, y: Any | None = None) -> Any:
    y = x if y is None else y
    q = jnp.einsum("btd,dhk->bthk", x, p["query"]["kernel"]) + p["query"]["bias"]
    k = jnp.einsum("btd,dhk->bthk", y, p["key"]["kernel"])
    v = jnp.einsum("btd,dhk->bthk", y, p["value"]["kernel"]) + p["value"]["bias"]
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / math.sqrt(q.shape[-1])
    mixed = jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, -1), v)
    return jnp.einsum("bqhk,hkd->bqd", mixed, p["out"]["kernel"]) + p["out"]["bias"]


def block(p: Params, x: Any) -> Any:
    x = x + attention(p["attention"], norm(p["attention_norm"], x))
    return x + mlp(p["mlp"], norm(p["mlp_norm"], x))


def embed(p: Params, x: Any, patch: tuple[int, int]) -> Any:
    """Patches, positions, and a readout token in front."""
    if x.ndim == 3:
        x = x[..., None]
    b, h, w, c = x.shape
    ph, pw = patch
    x = x.reshape(b, h // ph, ph, w // pw, pw, c).transpose(0, 1, 3, 2, 4, 5)
    x = linear(p["patches"]["proj"], x.reshape(b, -1, ph * pw * c)) + p["positions"]["table"]
    first = p["readout"]["tokens"]
    return jnp.concatenate([jnp.broadcast_to(first, (b, *first.shape)), x], 1)


def blocks(p: Params, x: Any) -> Any:
    for k in range(len(p)):
        x = block(p[str(k)], x)
    return x


def vit(p: Params, x: Any, patch: tuple[int, int]) -> Any:
    return norm(p["end"]["norm"], blocks(p["layers"], embed(p, x, patch)))


def towers(p: Params, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """The first token of each modality's own transformer."""
    image = vit(p["image"], batch["image"], IMAGE)[:, 0]
    return image, vit(p["audio"], batch["audio"], AUDIO)[:, 0]


def early(p: Params, batch: Mapping[str, Any]) -> Any:
    image = embed(p["image"], batch["image"], IMAGE)
    audio = embed(p["audio"], batch["audio"], AUDIO)
    p = p["joint"]
    first = p["readout"]["tokens"]
    first = jnp.broadcast_to(first, (len(image), *first.shape))
    x = jnp.concatenate([first, image, audio], 1)
    return norm(p["tower"]["norm"], blocks(p["tower"]["layers"], x))[:, 0]


def bottleneck(p: Params, batch: Mapping[str, Any]) -> Any:
    x, y = embed(p["image"], batch["image"], IMAGE), embed(p["audio"], batch["audio"], AUDIO)
    tokens = p["exchange"]["tokens"]
    count, n, m = len(tokens), x.shape[1], y.shape[1]
    z = jnp.broadcast_to(tokens, (len(x), *tokens.shape))
    for k in sorted(p["image"]["layers"]):
        x = block(p["image"]["layers"][k], jnp.concatenate([x, z], 1))
        y = block(p["audio"]["layers"][k], jnp.concatenate([y, z], 1))
        z = (x[:, n : n + count] + y[:, m : m + count]) / 2
        x, y = x[:, :n], y[:, :m]
    x, y = norm(p["image"]["end"]["norm"], x), norm(p["audio"]["end"]["norm"], y)
    return jnp.concatenate([x[:, 0], y[:, 0]], 1)


def low_rank_tensor(p: Params, batch: Mapping[str, Any]) -> Any:
    values = towers(p, batch)
    p, product = p["joint"], None
    for k, x in enumerate(values):
        factor = p["factors"][str(k)]
        term = jnp.einsum("bd,rdo->rbo", x, factor[:, 1:]) + factor[:, :1]
        product = term if product is None else product * term
    return jnp.einsum("r,rbo->bo", p["mix"], product) + p["bias"]


def expert_gate(p: Params, batch: Mapping[str, Any]) -> Any:
    values = towers(p, batch)
    p = p["joint"]
    each = [mlp(p["experts"][str(k)], x) for k, x in enumerate(values)]
    scores = [linear(p["scores"][str(k)], h) for k, h in enumerate(each)]
    gate = jax.nn.softmax(jnp.concatenate(scores, 1), -1)
    return jnp.einsum("bm,bmd->bd", gate, jnp.stack(each, 1))


def sequential(p: Params, batch: Mapping[str, Any]) -> Any:
    values = towers(p, batch)
    p = p["joint"]
    state = jnp.broadcast_to(p["start"], (len(values[0]), *p["start"].shape))
    for k, x in enumerate(values):
        update = p["updates"][str(k)]
        hidden = jax.nn.relu(linear(update["hidden"]["0"], x))
        state = linear(update["out"], jnp.concatenate([hidden, state], 1))
    return state


MODELS: dict[str, Callable[[Params, Mapping[str, Any]], Any]] = {
    "early": early,
    "bottleneck": bottleneck,
    "low_rank_tensor": low_rank_tensor,
    "expert_gate": expert_gate,
    "sequential": sequential,
}


def loss_of(name: str) -> Callable[[Params, Mapping[str, Any]], Any]:
    """Mean cross-entropy of a linear classifier on what a model gives."""

    def loss(p: Params, batch: Mapping[str, Any]) -> Any:
        logits = linear(p["digit"]["out"], MODELS[name](p, batch))
        surprise = -jax.nn.log_softmax(logits, -1)
        return jnp.mean(jnp.take_along_axis(surprise, batch["digit"][:, None], 1))

    return loss


def decayed(flat: Mapping[str, Any]) -> Params:
    """Which parameters decay: matrices, but no biases."""
    return nested({n: x.ndim >= 2 and not n.endswith(".bias") for n, x in flat.items()})


def optimiser(mask: Params, schedule: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05, mask=mask)
    )


def step_of(name: str, tx: optax.GradientTransformation) -> Callable[[Any, Any], Any]:
    """`(state, batch) -> (state, metrics)`, not yet compiled."""
    loss = loss_of(name)

    def step(state: Any, batch: Mapping[str, Any]) -> Any:
        params, moments = state
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, moments = tx.update(grads, moments, params)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
        return (optax.apply_updates(params, updates), moments), metrics

    return step

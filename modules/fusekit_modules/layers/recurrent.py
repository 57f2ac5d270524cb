"""Recurrent cells and their scan over time."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from fusekit_modules.layers.linear import Linear

CellName = Literal["gru", "lstm"]
State = tuple[Array, ...]


def _open_forget(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Biases of an LSTM: 1 for the forget gates, 0 for the others."""
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1)


class Recurrent(nnx.Module):
    """A GRU (Cho et al. 2014, with the reset gate after the recurrent product) or LSTM (Hochreiter
    and Schmidhuber 1997, with forget gates that start open) from a zero state.

    GRU: r, z = sigmoid(W x + U h), n = tanh(W x + r * (U h + c)), h' = (1 - z) n + z h.
    LSTM: i, f, o = sigmoid(W x + U h), g = tanh(W x + U h), c' = f c + i g, h' = o tanh(c').
    """

    def __init__(self, inputs: int, width: int, *, cell: CellName = "gru", rngs: nnx.Rngs):
        self.width = width
        self.cell: CellName = cell
        gates = 3 if cell == "gru" else 4
        self.enter = Linear(
            inputs,
            gates * width,
            axes=("features", "mlp"),
            bias_init=nnx.initializers.zeros if cell == "gru" else _open_forget,
            rngs=rngs,
        )
        self.again = Linear(
            width,
            gates * width,
            axes=("embed", "mlp"),
            bias=cell == "gru",
            init=nnx.initializers.orthogonal(),
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "b t d"],
        valid: Bool[Array, "b t"] | None = None,
        *,
        direction: Literal["forward", "backward"] = "forward",
    ) -> Float[Array, "b t h"]:
        """The state after each step, at its place. A step that is not valid keeps the state."""
        driven = self.enter(x)
        zero = jnp.zeros((x.shape[0], self.width), driven.dtype)
        state: State = (zero,) if self.cell == "gru" else (zero, zero)

        def step(state: State, given: tuple[Array, Array | None]) -> tuple[State, Array]:
            drive, ok = given
            new = self._gru(drive, *state) if self.cell == "gru" else self._lstm(drive, *state)
            if ok is not None:
                pairs = zip(new, state, strict=True)
                new = tuple(jnp.where(ok[:, None], after, before) for after, before in pairs)
            return new, new[0]

        over_time = (jnp.moveaxis(driven, 1, 0), None if valid is None else valid.T)
        _, states = jax.lax.scan(step, state, over_time, reverse=direction == "backward")
        return jnp.moveaxis(states, 0, 1)

    def _gru(self, drive: Array, h: Array) -> State:
        xr, xz, xn = jnp.split(drive, 3, axis=-1)
        hr, hz, hn = jnp.split(self.again(h), 3, axis=-1)
        reset, keep = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        new = jnp.tanh(xn + reset * hn)
        return ((1 - keep) * new + keep * h,)

    def _lstm(self, drive: Array, h: Array, c: Array) -> State:
        gates = drive + self.again(h)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

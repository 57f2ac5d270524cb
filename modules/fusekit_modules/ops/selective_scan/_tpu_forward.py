"""The forward kernel for TPUs: a program for each chunk of tokens of some channels of one example.

The state stands with its sizes on sublanes and channels on lanes, and stays in registers over the
chunk; between chunks it is in the block of the last state, which the programs of one example and
its channels have in common.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from fusekit_modules.ops.selective_scan._tpu_tiles import (
    LANES,
    SUBLANES,
    Sums,
    columns,
    groups,
    plus,
    row,
    spread,
    tokens,
)
from fusekit_modules.ops.selective_scan.form import CHUNK


def kernel(step: int, given: Any, outs: Any, *scratch: Any) -> None:
    """Refs of `Given`, with `a` for powers of two, and `Results`."""
    inputs, exponents, sums = scratch
    state = outs.state.at[0]
    (size, wide), each = state.shape, LANES // state.shape[0]
    every = [(q, k) for q in groups(size) for k in columns(wide)]

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        state[...] = given.state[0]

    if outs.kept is not None:
        outs.kept[0, 0] = state[...]
    tokens(given.marks, given.x, given.delta, inputs, exponents)

    def turn(number: Any, states: Any) -> Any:
        states, first = list(states), pl.multiple_of(number * step, step)
        found = [Sums() for _ in columns(wide)]
        for line in range(step // each):
            spot = number * (step // each) + line
            both = (spread(ref.at[0], spot, size) for ref in (given.into, given.out))
            for t, (b, c) in enumerate(zip(*both, strict=True)):
                token = first + line * each + t
                for at, lanes in enumerate(columns(wide)):
                    exponent, more = row(exponents, at, token), row(inputs, at, token)
                    total: Any = None
                    for n, own in enumerate(groups(size)):
                        i = n * len(columns(wide)) + at
                        decay = jnp.exp2(exponent * given.a[own, lanes])
                        states[i] = decay * states[i] + more * b[n]
                        total = plus(total, states[i] * c[n])
                    found[at].add(total, later=True)
                    if (line * each + t) % SUBLANES == SUBLANES - 1:
                        sums[pl.ds(token + 1 - SUBLANES, SUBLANES), lanes] = found[at].take()
        return tuple(states)

    states = lax.fori_loop(0, CHUNK // step, turn, tuple(state[spot] for spot in every))
    for spot, new in zip(every, states, strict=True):
        state[spot] = new
    outs.y[0] = sums[...].astype(outs.y.dtype)

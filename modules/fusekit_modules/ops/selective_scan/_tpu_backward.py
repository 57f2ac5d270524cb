"""The backward kernel for TPUs: chunks from the last to the first, each in two passes.

The first pass makes the states of a chunk again, into the chip's memory; the second goes back over
its tokens. Gradients of the state and of `a` are carried in the blocks that they are written to.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from fusekit_modules.ops.selective_scan._tpu_tiles import (
    LANES,
    LOG2,
    SUBLANES,
    Sums,
    columns,
    gather,
    groups,
    plus,
    row,
    spread,
    there,
    tokens,
)
from fusekit_modules.ops.selective_scan.form import CHUNK


def kernel(step: int, given: Any, kept: Any, grads: Any, outs: Any, *scratch: Any) -> None:
    """Refs of `Given`, with `a` for powers of two; `outs` are of `Given`, gradients of `into` and
    `out` by group of channels and that of `a` by example."""
    inputs, exponents, slopes, states, by_input, by_exponent = scratch
    grad, last = grads
    (size, wide), each = kept.shape[-2:], LANES // kept.shape[-2]
    own = [(n, at) for n in range(len(groups(size))) for at in range(len(columns(wide)))]
    every = [(q, k) for q in groups(size) for k in columns(wide)]
    d_state, d_a = outs.state.at[0], outs.a.at[0]

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        d_state[...] = last[0]
        d_a[...] = jnp.zeros(d_a.shape, jnp.float32)

    rows = tokens(given.marks, given.x, given.delta, inputs, exponents)
    for at, lanes in enumerate(columns(wide)):
        slopes[at * CHUNK : (at + 1) * CHUNK] = there(rows, grad[0, :, lanes])

    def place(token: Any, number: int) -> Any:
        return pl.ds(pl.multiple_of((token * len(own) + number) * SUBLANES, SUBLANES), SUBLANES)

    def again(number: Any, now: Any) -> Any:
        now, first = list(now), pl.multiple_of(number * step, step)
        for line in range(step // each):
            spot = number * (step // each) + line
            for t, b in enumerate(spread(given.into.at[0], spot, size)):
                token = first + line * each + t
                for at, lanes in enumerate(columns(wide)):
                    exponent, more = row(exponents, at, token), row(inputs, at, token)
                    for n, q in enumerate(groups(size)):
                        i = n * len(columns(wide)) + at
                        now[i] = jnp.exp2(exponent * given.a[q, lanes]) * now[i] + more * b[n]
                        states[place(token + 1, i)] = now[i]
        return tuple(now)

    start = tuple(kept[0, 0, *spot] for spot in every)
    for i, tile in enumerate(start):
        states[place(0, i)] = tile
    lax.fori_loop(0, CHUNK // step, again, start)

    def back(number: Any, carry: Any) -> Any:
        d_states, d_decays = map(list, carry)
        first = pl.multiple_of(CHUNK - (number + 1) * step, step)
        sums = [(Sums(), Sums()) for _ in columns(wide)]
        for line in reversed(range(step // each)):
            spot = (CHUNK // step - 1 - number) * (step // each) + line
            into, out = (spread(ref.at[0], spot, size) for ref in (given.into, given.out))
            by_b: Any
            by_c: Any
            by_b, by_c = ([[None] * len(groups(size)) for _ in into] for _ in "bc")
            for t in reversed(range(each)):
                token = first + line * each + t
                for at, lanes in enumerate(columns(wide)):
                    exponent = row(exponents, at, token)
                    more, slope = row(inputs, at, token), row(slopes, at, token)
                    of_input: Any = None
                    of_exponent: Any = None
                    for n, q in enumerate(groups(size)):
                        i, a = n * len(columns(wide)) + at, given.a[q, lanes]
                        d = d_states[i] + out[t][n] * slope
                        by_c[t][n] = plus(by_c[t][n], states[place(token + 1, i)] * slope)
                        by_b[t][n] = plus(by_b[t][n], d * more)
                        of_input = plus(of_input, d * into[t][n])
                        d_states[i] = d * jnp.exp2(exponent * a)
                        d_decay = d_states[i] * states[place(token, i)]
                        d_decays[i] = d_decays[i] + d_decay * exponent
                        of_exponent = plus(of_exponent, d_decay * a)
                    sums[at][0].add(of_input, later=False)
                    sums[at][1].add(of_exponent, later=False)
                    if (line * each + t) % SUBLANES == 0:
                        tile = pl.ds(token, SUBLANES)
                        by_input[tile, lanes] = sums[at][0].take()
                        by_exponent[tile, lanes] = sums[at][1].take()
            outs.into[0, 0, pl.ds(spot, 1)] = gather(by_b)
            outs.out[0, 0, pl.ds(spot, 1)] = gather(by_c)
        return tuple(d_states), tuple(d_decays)

    carries = tuple(tuple(ref[spot] for spot in every) for ref in (d_state, d_a))
    d_states, d_decays = lax.fori_loop(0, CHUNK // step, back, carries)
    for spot, d, decay in zip(every, d_states, d_decays, strict=True):
        d_state[spot], d_a[spot] = d, decay
    for lanes in columns(wide):
        x, delta = given.x[0, :, lanes], given.delta[0, :, lanes]
        d_input = by_input[:, lanes]
        d_delta = d_input * there(rows, x) + LOG2 * by_exponent[:, lanes]
        outs.x[0, :, lanes] = (d_input * there(rows, delta)).astype(outs.x.dtype)
        outs.delta[0, :, lanes] = there(rows, d_delta).astype(outs.delta.dtype)

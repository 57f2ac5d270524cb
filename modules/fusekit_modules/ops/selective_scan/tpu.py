"""The selective scan for TPUs, in Pallas by way of Mosaic.

Arrays of tokens stay as they are, in their own dtype. Chunks of an example's tokens follow each
other; examples and groups of channels do not meet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.floor import Floor
from fusekit_modules.ops.selective_scan import _tpu_backward, _tpu_forward, floors
from fusekit_modules.ops.selective_scan._tpu_tiles import LANES, LOG2, SUBLANES
from fusekit_modules.ops.selective_scan.form import CHUNK, THERE, Given, Results, clean
from fusekit_modules.ops.target import Target

GENERATIONS = ("v5e", "v5p", "v6e")
"""For which it was compiled; it has not run on any."""
LARGEST = 64
"""Size of a state."""
REGISTERS = 16 * 512
"""Numbers of a state that a program has in its registers."""
STEP = 32
"""Tokens of one turn of a loop; the compiler overlaps what is within one."""
VMEM = 48 * 2**20
TINY = 1e-27
"""A decay this slow is none; times `FORGET` it still forgets."""


def unsupported(target: Target, given: Given) -> Reason:
    """Why the kernels cannot."""
    if target.platform != "tpu":
        return f"the target is a {target}"
    if target.generation not in GENERATIONS:
        return f"they were not compiled for {target}"
    for name, array in given._replace(marks=None)._asdict().items():
        if array is not None and array.dtype not in (jnp.float32, jnp.bfloat16):
            return f"{name} is {array.dtype}, not float32 or bfloat16"
    if given.a.shape[0] > LARGEST:
        return f"states of {given.a.shape[0]} are larger than {LARGEST}"
    return None


def forward(given: Given, *, keep: bool = True, interpret: bool = False) -> Results:
    """As `reference.forward`."""
    grid = _Grid.of(given, interpret)
    full, specs = grid.filled(given), grid.specs()
    kept: Any = jax.ShapeDtypeStruct(grid.kept, jnp.float32) if keep else None
    of_kept: Any = grid.of_kept() if keep else None
    found = grid.call(
        _tpu_forward.kernel,
        "forward",
        floors.forward(given),
        (full,),
        Results(full.x, full.state, kept),
        ((specs,), Results(specs.x, specs.state, of_kept)),
        [grid.rows(), grid.rows(), grid.tile()],
    )
    (_, time, channels), size = given.x.shape, given.a.shape[0]
    kept = found.kept[:, :, :size, :channels] if keep else found.state[:, None]
    return Results(found.y[:, :time, :channels], found.state[:, :size, :channels], kept)


def backward(
    given: Given,
    kept: Float[Array, "b c n d"],
    grads: tuple[Float[Array, "b t d"], Float[Array, "b n d"]],
    *,
    interpret: bool = False,
) -> Given:
    """As `reference.backward`."""
    grid = _Grid.of(given, interpret, last_first=True)
    full, specs = grid.filled(given), grid.specs()
    sums: Any = jax.ShapeDtypeStruct((grid.parts, *full.into.shape), jnp.float32)
    states = pltpu.VMEM(((CHUNK + 1) * grid.size * grid.wide // LANES, LANES), jnp.float32)
    found = grid.call(
        _tpu_backward.kernel,
        "backward",
        floors.backward(given),
        (full, grid.states(kept), (grid.tokens(grads[0]), grid.states(grads[1]))),
        Given(full.x, full.delta, full.state, sums, sums, None, full.state),
        (
            (specs, grid.of_kept(), (specs.x, specs.state)),
            specs._replace(a=specs.state, into=grid.of_sums(), out=grid.of_sums(), marks=None),
        ),
        [*[grid.rows()] * 3, states, *[grid.tile()] * 2],
    )
    tokens = (grid.batch, -1, grid.size)
    into, out = (jnp.sum(d, 0).reshape(tokens) for d in (found.into, found.out))
    found = found._replace(a=jnp.sum(found.a, 0), into=into, out=out)
    floats = given._replace(marks=None)
    return jax.tree.map(lambda d, v: d[tuple(map(slice, v.shape))].astype(v.dtype), found, floats)


def programs(given: Given) -> int:
    """Of how many programs each kernel is."""
    grid = _Grid.of(given, False)
    return grid.parts * grid.batch * grid.chunks


@dataclass(frozen=True)
class _Grid:
    """A program for each chunk of tokens of `wide` channels of one example.

    Args:
      batch, chunks, parts: how many examples, chunks and groups of channels.
      size: of the state, filled to whole sublanes and a power of two.
      wide: channels of a program.
      interpret: on whatever device there is.
      last_first: from the last chunk to the first.
    """

    batch: int
    chunks: int
    parts: int
    size: int
    wide: int
    interpret: bool
    last_first: bool

    @staticmethod
    def of(given: Given, interpret: bool, *, last_first: bool = False) -> "_Grid":
        (batch, time, channels), size = given.x.shape, max(given.a.shape[0], SUBLANES)
        size = 1 << (size - 1).bit_length()
        full = _whole(channels, LANES)
        most = max(REGISTERS // size, LANES)
        wide = max(w for w in range(LANES, most + 1, LANES) if full % w == 0)
        return _Grid(batch, -(-time // CHUNK), full // wide, size, wide, interpret, last_first)

    @property
    def lines(self) -> tuple[int, ...]:
        """B and C, as many tokens side by side as fill the lanes."""
        return self.batch, self.chunks * CHUNK * self.size // LANES, LANES

    @property
    def kept(self) -> tuple[int, ...]:
        return self.batch, self.chunks, self.size, self.parts * self.wide

    def filled(self, given: Given) -> Any:
        """Whole lanes and sublanes, and marks, B and C for whole chunks. Other tokens are filled up
        to one chunk; what is read beyond their end is marked as not there."""
        cleaned, time = clean(given), self.chunks * CHUNK
        there = jnp.full(given.x.shape[:2], THERE) if given.marks is None else given.marks
        a = given.a.astype(jnp.float32) / LOG2
        a = jnp.where((a <= 0) & (a > -TINY), -TINY, a)
        into, out = (
            _filled(v.astype(jnp.float32), (self.batch, time, self.size)).reshape(self.lines)
            for v in (cleaned.into, cleaned.out)
        )
        return Given(
            self.tokens(given.x),
            self.tokens(given.delta),
            _filled(a, self.kept[2:]),
            into,
            out,
            _filled(there.astype(jnp.float32)[:, None], (self.batch, 1, time)),
            self.states(given.state),
        )

    def tokens(self, array: Array) -> Array:
        return _filled(array, (self.batch, max(array.shape[1], CHUNK), self.kept[-1]))

    def states(self, array: Array) -> Array:
        return _filled(array.astype(jnp.float32), (*array.shape[:-2], *self.kept[2:]))

    def specs(self) -> Any:
        """What a program sees of `filled`."""
        tokens = self._spec((1, CHUNK, self.wide), lambda part, row, chunk: (row, chunk, part))
        lines = self._spec((1, self.size, LANES), lambda part, row, chunk: (row, chunk, 0))
        marks = self._spec((1, 1, CHUNK), lambda part, row, chunk: (row, 0, chunk))
        a = self._spec((self.size, self.wide), lambda part, row, chunk: (0, part))
        state = self._spec((1, self.size, self.wide), lambda part, row, chunk: (row, 0, part))
        specs: Any = (tokens, tokens, a, lines, lines, marks, state)
        return Given(*specs)

    def of_kept(self) -> Any:
        block = (1, 1, self.size, self.wide)
        return self._spec(block, lambda part, row, chunk: (row, chunk, 0, part))

    def of_sums(self) -> Any:
        """Sums over a program's channels of each token."""
        block = (1, 1, self.size, LANES)
        return self._spec(block, lambda part, row, chunk: (part, row, chunk, 0))

    def rows(self) -> Any:
        """A program's tokens, by column of lanes and then token."""
        return pltpu.VMEM((CHUNK * self.wide // LANES, LANES), jnp.float32)

    def tile(self) -> Any:
        return pltpu.VMEM((CHUNK, self.wide), jnp.float32)

    def _spec(self, block: tuple[int, ...], place: Callable[..., tuple[Any, ...]]) -> Any:
        end = self.chunks - 1
        if self.last_first:
            return pl.BlockSpec(block, lambda part, row, chunk: place(part, row, end - chunk))
        return pl.BlockSpec(block, place)

    def call(
        self, kernel: Any, name: str, floor: Floor, given: Any, outs: Any, specs: Any, scratch: Any
    ) -> Any:
        """Calls a kernel with refs of each of `given`, then `outs` and `scratch`."""
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), outs)
        return pl.pallas_call(
            partial(kernel, max(SUBLANES, LANES // self.size) if self.interpret else STEP),
            grid=(self.parts, self.batch, self.chunks),
            in_specs=specs[0],
            out_specs=[specs[1]],
            out_shape=[shapes],
            scratch_shapes=scratch,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM
            ),
            cost_estimate=floor.estimate(),
            interpret=self.interpret,
            name=f"selective_scan_{name}",
        )(*given)[0]


def _whole(size: int, of: int) -> int:
    return -(-size // of) * of


def _filled(array: Array, shape: tuple[int, ...]) -> Array:
    """With zeros up to a shape."""
    short = [(0, to - size) for size, to in zip(array.shape, shape, strict=True)]
    return jnp.pad(array, short) if any(end for _, end in short) else array

"""An encoder with random float64 parameters, run on NumPy arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.component import NodeSpec
from fusekit.context import Context
from fusekit.standalone import standalone
from fusekit.stream import Signature, Stream
from tests.modules.layers.harness import float64, randomised


class Case:
    """Runs `spec` on streams of `given`."""

    def __init__(self, spec: NodeSpec, given: Signature):
        self.spec, self.given = spec, given
        self.module = standalone(spec, {"input": given}, rngs=nnx.Rngs(0))
        self.build, self.p = randomised(self.module)
        self.jitted = jax.jit(self._call, static_argnames=("mode",))
        self.graded = jax.jit(jax.grad(self._loss))

    def _call(self, p: Any, stream: Stream, mode: Any = "evaluate") -> Stream:
        context = Context(mode, jax.random.key(0), path="node", dtype=jnp.float64)
        return self.build(p)({"input": stream}, context=context).clean()

    def _loss(self, p: Any, stream: Stream) -> Any:
        return jnp.sum(jnp.square(self._call(p, stream, "train").values))

    def stream(self, values: Any, mask: Any = None, presence: Any = None) -> Stream:
        kind = "float64" if self.given.dtype == "float" else "int32"
        return Stream(
            jnp.asarray(values, kind),
            None if mask is None else jnp.asarray(mask),
            None if presence is None else jnp.asarray(presence),
            spans=self.given.spans,
        )

    def __call__(
        self, values: Any, mask: Any = None, presence: Any = None, mode: str = "evaluate"
    ) -> Stream:
        with float64():
            return self.jitted(self.p, self.stream(values, mask, presence), mode=mode)

    def gradients(self, values: Any, mask: Any = None, presence: Any = None) -> Any:
        """Of the sum of squares in training, by parameter."""
        with float64():
            given = self.stream(values, mask, presence)
            return jax.tree.map(np.asarray, self.graded(self.p, given))

    def values(self, batch: int = 3, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shape = (batch, *self.given.shape)
        if self.given.dtype != "float":
            return rng.integers(0, self.given.classes, shape)
        x = rng.normal(size=shape)
        for index, card in enumerate(self.given.cardinalities):
            if card:
                x[:, index] = rng.integers(0, card, batch)
        return x

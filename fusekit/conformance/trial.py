"""A case built: its parameters, and compiled calls that the checks share."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.component import LossSpec, LossValue, NodeSpec
from fusekit.conformance.cases import Case
from fusekit.conformance.laws import quick
from fusekit.context import Context, Mode
from fusekit.standalone import standalone
from fusekit.stream import Stream
from fusekit.walk.values import cleaned

KEY = 7


class Trial:
    """One case with its parameters."""

    def __init__(self, case: Case, *, seed: int = 0):
        self.case = case
        spec = case.spec
        rngs = nnx.Rngs(seed)
        if isinstance(spec, LossSpec):
            self.module = spec.build(case.inputs, rngs=rngs)
        elif isinstance(spec, NodeSpec):
            self.module = standalone(spec, case.inputs, rngs=rngs)
        self.graphdef, self.states = nnx.split(self.module)
        _, params, variables = nnx.split(self.module, nnx.Param, ...)
        self.params = nnx.to_pure_dict(params)
        self.variables = nnx.to_pure_dict(variables)
        self._compiled: dict[Mode, Any] = {}

    def call(
        self,
        mode: Mode,
        params: Any,
        variables: Any,
        streams: Mapping[str, Stream],
        valid: Any,
        key: Any,
    ) -> Any:
        """Outputs, zero where padded or absent as the walk makes them, and the variables
        afterwards. A loss gets the `valid` rows in which everything is present."""
        module = nnx.merge(self.graphdef, nnx.State(params), nnx.State(variables))
        context = Context(mode=mode, key=key if mode == "train" else None, path="it")
        if isinstance(self.case.spec, LossSpec):
            rows = valid
            for stream in streams.values():
                rows = rows if stream.presence is None else rows & stream.presence
            out = module(dict(streams), rows=rows, context=context)  # pyright: ignore
        else:
            out = cleaned(module(dict(streams), context=context))  # pyright: ignore
        return out, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))

    def __call__(
        self,
        streams: Mapping[str, Stream],
        mode: Mode = "evaluate",
        *,
        params: Any = None,
        valid: Any = None,
        key: int = KEY,
    ) -> Any:
        """The compiled call, on the initial parameters unless others are given."""
        if mode not in self._compiled:
            self._compiled[mode] = quick(lambda *given: self.call(mode, *given))
        params = self.params if params is None else params
        return self._compiled[mode](params, self.variables, *self._given(streams, valid, key))

    def _given(self, streams: Mapping[str, Stream], valid: Any = None, key: int = KEY) -> Any:
        rows = next(iter(streams.values())).batch
        return (
            dict(streams),
            np.ones(rows, bool) if valid is None else valid,
            jax.random.key(key),
        )

    def gradients(
        self, streams: Mapping[str, Stream], params: Any = None, valid: Any = None
    ) -> Any:
        """Gradients of a fixed random projection of the outputs, in training."""
        params = self.params if params is None else params
        if not jax.tree.leaves(params):
            return params
        return self._gradient(params, self.variables, *self._given(streams, valid))

    def precise(self, streams: Mapping[str, Stream], params: Any) -> Any:
        """The gradients in float64."""

        def double(leaf: Any) -> Any:
            real = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.asarray(np.asarray(leaf), jnp.float64) if real else leaf

        with jax.enable_x64(True):
            given = jax.tree.map(double, (params, self.variables, dict(streams)))
            valid, key = self._given(streams)[1:]
            return jax.tree.map(np.asarray, self._gradient(*given, valid, key))

    @cached_property
    def _gradient(self) -> Any:
        def scalar(params: Any, *given: Any) -> Any:
            out, _ = self.call("train", params, *given)
            return sum(jnp.sum(leaf * weights(leaf)) for leaf in floats(out))

        return quick(jax.grad(scalar))


def weights(leaf: Any) -> Any:
    """Fixed random weights of an array's shape."""
    return np.random.default_rng(leaf.size).normal(size=leaf.shape).astype("float32")


def floats(out: Any) -> list[Any]:
    """The values of all outputs that can have a gradient."""
    if isinstance(out, LossValue):
        return [out.total]
    streams = out.values() if isinstance(out, dict) else [out]
    return [s.values for s in streams if jnp.issubdtype(s.values.dtype, jnp.floating)]

"""Pooling after a norm over the batch: gradients however the compiler rounds."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.context import Context
from fusekit.standalone import standalone
from fusekit.stream import Signature, Stream
from fusekit_modules.encoders.conv import ConvSpec


def test_flat_regions_give_finite_gradients_in_any_compilation():
    spec = ConvSpec.model_validate(
        {"type": "conv", "input": "batch.x", "widths": [8, 8], "activation": "gelu"}
    )
    sizes = (("height", 16), ("width", 16), ("channel", 3))
    module = standalone(spec, {"input": Signature(sizes, optional=True)}, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    rng = np.random.default_rng(0)
    images = np.zeros((8, 16, 16, 3), "float32")
    images[:, 4:8, 4:8] = rng.normal(size=(8, 4, 4, 3))  # the rest is flat
    present = jnp.arange(8) < 6

    def objective(params):
        stream = Stream(jnp.asarray(images), presence=present)
        own = jax.tree.map(lambda leaf: leaf, rest)
        out = nnx.merge(graph, params, own)({"input": stream}, context=Context(mode="train"))
        return jnp.mean(jnp.square(out.values))

    eager = jax.grad(objective)(params)
    compiled = jax.jit(jax.grad(objective))(params)
    for one, other in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, atol=1e-4)

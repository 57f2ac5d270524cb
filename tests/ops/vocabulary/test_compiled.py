"""The chunked form through the real compilers: what it holds, and what a mesh sends."""

import jax
import jax.numpy as jnp
import pytest

from fusekit.layout import Layout
from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit_modules.ops.linear_cross_entropy import linear_cross_entropy
from fusekit_modules.ops.linear_cross_entropy.given import Linear
from fusekit_tpu.topology import Topology


def compiled(rows, width, words, layout, dtype=jnp.bfloat16):
    """The mean over all rows, and its gradients, of parameters in float32."""

    def shape(sizes, kind, axes, of):
        return jax.ShapeDtypeStruct(sizes, kind, sharding=of(sizes, axes))

    params, streams = layout.of_param, layout.of_stream
    given = Linear(
        shape((rows, width), dtype, ("batch", None), streams),
        shape((width, words), jnp.float32, (None, "vocab"), params),
        shape((words,), jnp.float32, ("vocab",), params),
    )
    others = [shape((rows,), kind, ("batch",), streams) for kind in (jnp.int32, jnp.bool_)]

    def loss(given, target, counts):
        return jnp.mean(linear_cross_entropy(*given, target, counts, layout=layout))

    return jax.jit(jax.value_and_grad(loss)).lower(given, *others).compile()


def test_32768_words_take_no_logits_on_this_cpu():
    """All logits would be 512 MiB; what is held beside chunks of 16 MiB is the gradients."""
    layout = Layout.of(devices=jax.devices()[:1])
    memory = compiled(4096, 64, 32768, layout, jnp.float32).memory_analysis()
    assert memory.temp_size_in_bytes < 128 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "sizes"),
    [("v5e:2x2", {}), ("v5e:2x2", {"data": 2, "tensor": 2}), ("v6e:2x2", {"tensor": 4})],
    ids=str,
)
def test_tpus_hold_none_and_gather_nothing(topology, sizes, monkeypatch):
    pytest.importorskip("libtpu")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    chips = devices(Topology.parse(topology))
    layout = Layout.of(sizes, devices=chips[: 4 if sizes else 1])
    program = compiled(4096, 256, 32768, layout)
    text = program.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    assert program.memory_analysis().temp_size_in_bytes < 64 << 20

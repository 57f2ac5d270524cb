"""Contrasts are exported for every platform, by forms and by kernels."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import gram, info_nce, siglip, symile

pytest.importorskip("flatbuffers")

TRITON = "__gpu$xla.gpu.triton"
CALLS = {"tpu": "tpu_custom_call", "cuda": TRITON}
TARGETS = {
    "cpu": Target("cpu"),
    "cuda": Target("gpu", capability=(9, 0)),
    "tpu": Target("tpu", generation="v5e"),
}
SHAPE = jax.ShapeDtypeStruct((32, 128), jnp.bfloat16)


def loss(name: str, options: Any, x: Any, y: Any, z: Any, present: Any) -> Any:
    scale, bias = jnp.float32(5), jnp.float32(-1)
    if name == "info_nce":
        return sum(map(jnp.sum, info_nce(x, y, scale, present, present, **options)))
    if name == "siglip":
        return jnp.sum(siglip(x, y, scale, bias, present, **options))
    if name == "gram":
        return sum(map(jnp.sum, gram(x, [y, z], scale, present, **options)))
    return jnp.sum(symile([x, y, z], scale, present, negatives="samples", **options))


def exported(name: str, platform: str, backend: str) -> str:
    """The module of value and gradients; which rows are there is an input."""
    options = {"target": TARGETS[platform], "forward": backend, "backward": backend}
    both = jax.jit(jax.value_and_grad(partial(loss, name, options), (0, 1, 2)))
    checks = [jax.export.DisabledSafetyCheck.custom_call(TRITON)] if backend == "gpu" else []
    present = jax.ShapeDtypeStruct((32,), jnp.bool_)
    made = jax.export.export(both, platforms=[platform], disabled_checks=checks)
    program = made(SHAPE, SHAPE, SHAPE, present)
    read = jax.export.deserialize(program.serialize())
    assert [aval.dtype.name for aval in read.in_avals] == ["bfloat16"] * 3 + ["bool"]
    return read.mlir_module()


@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize("name", ["info_nce", "siglip", "gram", "symile"])
@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_forms(name: str, platform: str, backend: str) -> None:
    assert "custom_call" not in exported(name, platform, backend).replace("@Sharding", "")


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "platform"),
    [
        *[(name, "cuda") for name in ("info_nce", "siglip", "gram", "symile")],
        *[(name, "tpu") for name in ("info_nce", "siglip", "symile")],
    ],
)
def test_kernels(name: str, platform: str) -> None:
    backend = {"cuda": "gpu", "tpu": "tpu"}[platform]
    assert exported(name, platform, backend).count(CALLS[platform]) >= 2  # both passes

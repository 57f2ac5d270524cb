"""InfoNCE and GRAM compiled for a TPU that is not there: what the compiler estimates, ours against
XLA's.

    python -m tests.benchmarks.ops_contrastive_tpu [--losses info_nce gram] [--rows 8192 32768]

Nothing runs. See `estimates`. `naive` holds all scores. The last line is JSON.
"""

import argparse
import json
from functools import partial
from typing import Any

from tests.benchmarks.estimates import priced

# isort: split
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.plan.compilers import devices
from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import cases, gram, info_nce, tpu
from fusekit_modules.ops.contrastive.scores import Kind
from fusekit_modules.ops.contrastive.volumes import orthonormal
from fusekit_tpu.topology import Topology
from tests.support.compiled import mesh_of

KINDS = {"info_nce": cases.INFO_NCE, "gram": cases.GRAM}
VECTORS = {"info_nce": 2, "gram": 4}


def loss(name: str, how: str, target: Target, scale: Any, x: Any, *others: Any) -> Any:
    """The mean over both sides."""
    every = jnp.ones(x.shape[0], bool)
    if how == "naive":
        scores = scale * (products(x, others[0]) if name == "info_nce" else -volumes(x, others))
        own = jnp.diagonal(scores)
        return sum(jnp.mean(jax.nn.logsumexp(scores, axis=n) - own) for n in (0, 1)) / 2
    options = {"target": target, "forward": how, "backward": how}
    if name == "gram":
        sides = gram(x, list(others), scale, every, **options)
    else:
        sides = info_nce(x, *others, scale, every, every, **options)
    return (jnp.mean(sides[0]) + jnp.mean(sides[1])) / 2


def products(x: Any, y: Any) -> Any:
    return jax.lax.dot(x, y.T, preferred_element_type=jnp.float32)


def volumes(x: Any, others: Any) -> Any:
    """Of every row with every row, by heights, all at once."""
    basis, square = orthonormal([other.astype(jnp.float32) for other in others])
    height = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1)[:, None]
    for vector in basis:
        height = height - jnp.square(products(x, vector.astype(x.dtype)))
    return jnp.sqrt(jnp.maximum(square[None] * height, 1e-6))


def steps(kind: Kind, rows: int, name: str) -> int:
    """How often a kernel's body runs, backward over all launches."""
    backward = "gradients" in name
    blocks = tpu.default(kind, "backward" if backward else "forward")
    each = blocks.block if backward else blocks.rows
    return -(-rows // each) * -(-rows // blocks.columns)


def estimated(
    name: str, how: str, both: bool, rows: int, width: int, topology: Topology
) -> dict[str, Any]:
    """Of the loss, with or without gradients."""
    mesh = mesh_of(devices(topology), data=1)
    where = NamedSharding(mesh, P())
    vector = jax.ShapeDtypeStruct((rows, width), jnp.bfloat16, sharding=where)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)
    given = (scale, *[vector] * VECTORS[name])
    function = partial(loss, name, how, Target.of(mesh))
    if both:
        function = jax.value_and_grad(function, argnums=tuple(range(len(given))))
    return priced(function, given, topology.chip, partial(steps, KINDS[name], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--losses", nargs="*", default=["info_nce"], choices=list(KINDS))
    parser.add_argument("--rows", type=int, nargs="*", default=[8192, 32768])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--hows", nargs="*", default=["naive", "xla", "tpu"])
    chosen = parser.parse_args()
    topology = Topology.parse(chosen.topology)
    report: dict[str, Any] = {"benchmark": "ops_contrastive_tpu", "topology": chosen.topology}
    for loss_name in chosen.losses:
        for rows in chosen.rows:
            count = VECTORS[loss_name] - 1
            product = 1e3 * 2 * count * rows * rows * chosen.width / topology.chip.flops
            for both in (False, True):
                name = f"{loss_name} {rows} {'both' if both else 'forward'}"
                report[f"{name} floor_ms"] = round(product * (4 if both else 1), 2)
                for how in chosen.hows:
                    found = estimated(loss_name, how, both, rows, chosen.width, topology)
                    report[f"{name} {how}"] = found
                    print(f"{name} {how}: {found}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

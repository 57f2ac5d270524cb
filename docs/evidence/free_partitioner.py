"""Gradients on a mesh against those of one device, with parameters gathered and left free.

    python docs/evidence/free_partitioner.py        (from the root of a checkout)

Prints, for each mesh, the largest absolute difference of any gradient. See docs/design/003.
"""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.program import Program
from tests.support import toys

GRAPH = resolve(toys.two_stacks(depth=6))
MESHES = (
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"fsdp": 4, "tensor": 2},
    {"data": 2, "fsdp": 4},
    {"data": 2, "tensor": 2},
)


def gradients(mesh, layers):
    """Every gradient by canonical path, of the toy at its initial parameters."""
    layout = Layout.of(mesh) if mesh else None
    program = Program(GRAPH, layers=layers, layout=layout)
    state, batch = program.init(0), program.batch(toys.batch(0))
    context = program.context("evaluate", None)
    loss = jax.jit(jax.grad(lambda p: program.loss(p, state.variables, batch, context)[0]))
    found = program.parameters(state.with_(params=loss(state.params)))
    return {path: np.asarray(array) for path, array in found.items()}


def gap(one, other):
    return max(float(np.abs(one[path] - other[path]).max(initial=0)) for path in one)


def main():
    alone = gradients(None, "unroll")
    largest = max(float(np.abs(array).max(initial=0)) for array in alone.values())
    print(f"jax {jax.__version__}; the largest gradient is {largest:.3g}")
    gathered = Layout.gathered
    for layers in ("unroll", "scan"):
        for mesh in MESHES:
            used = gap(gradients(mesh, layers), alone)
            Layout.gathered = lambda self, params, axes: params
            free = gap(gradients(mesh, layers), alone)
            Layout.gathered = gathered
            print(f"{layers:6} {mesh!s:40} free {free:.2g}, gathered at use {used:.2g}")


if __name__ == "__main__":
    main()

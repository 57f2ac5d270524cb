"""The law of meshes, on an experiment as it stands."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.graph.packing import unpack
from fusekit.layout import Layout
from fusekit.objective import loss, read_by
from tests.support.training import distance

CUBE = {"data": 2, "fsdp": 2, "tensor": 2}


def check_cube(experiment, batch, losses=None):
    """A mesh of (2, 2, 2) gives the loss of one device to 1e-5 and gradients to 1e-4."""
    check_meshes(experiment, batch, [CUBE], losses)


def check_meshes(experiment, batch, meshes, losses=None):
    """Every mesh gives the loss of one device to 1e-5 and gradients to 1e-4."""
    found = []
    for layout in (None, *map(Layout.of, meshes)):
        program = fusekit.compile(experiment, layout=layout)
        state = program.init(0)
        context = program.context("train", jax.random.key(1))

        def objective(params, program=program, state=state, context=context):
            streams = program.batch(batch, wanted=read_by(program.graph.losses, losses))
            return loss(program.model, params, state.variables, streams, context, losses)[0]

        total, grads = jax.jit(jax.value_and_grad(objective))(state.params)
        flat = unpack(grads, program.model.groups)
        found.append((float(total), {path: np.asarray(g) for path, g in flat.items()}))
    (one, grads), *others = found
    for other, theirs in others:
        assert other == pytest.approx(one, rel=1e-5)
        assert distance(theirs, grads) < 1e-4

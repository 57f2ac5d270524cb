"""Every component takes a number of rows that is not known: `len` of an array does not."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import pytest
from flax import nnx

from fusekit.config.registry import walk
from fusekit.conformance.cases import Case, cases_of, has_laws
from fusekit.context import Context
from fusekit.standalone import standalone
from fusekit.stream import Signature, Stream

KINDS = {"float": "float32", "int": "int32", "bool": "bool"}


def components() -> Iterator[Any]:
    """Those that are shipped: other tests may have registered toys."""
    for slot, name, component in walk():
        if component.__module__.startswith("tests."):
            continue
        if slot in ("encoder", "fusion", "head", "modality") and has_laws(component):
            yield pytest.param(component, id=f"{slot}.{name}")


@pytest.mark.parametrize("component", list(components()))
def test_rows_may_be_a_symbol(component: Any):
    (case, *_) = cases_of(component)
    (rows,) = jax.export.symbolic_shape("batch", constraints=["batch >= 1"])
    streams = {role: _abstract(signature, rows) for role, signature in case.inputs.items()}
    found = jax.eval_shape(lambda given: _called(case, given), streams)
    for leaf in jax.tree.leaves(found):
        assert leaf.shape[0] == rows or leaf.ndim < 2  # descriptions of tokens, [time]


def _called(case: Case, streams: dict[str, Stream]) -> Any:
    module: Any = standalone(case.spec, case.inputs, rngs=nnx.Rngs(0))  # pyright: ignore
    return module(streams, context=Context(mode="predict", path="it"))


def _abstract(signature: Signature, rows: Any) -> Any:
    shape = (rows, *signature.shape)
    mask = jax.ShapeDtypeStruct(shape[:2], "bool") if signature.padded else None
    presence = jax.ShapeDtypeStruct(shape[:1], "bool") if signature.optional else None
    values: Any = jax.ShapeDtypeStruct(shape, KINDS[signature.dtype])
    return Stream(values, mask, presence, spans=signature.spans, grid=signature.grid)  # pyright: ignore

"""Trains a program a little and compares states, for tests of how programs are held."""

from typing import Any

import numpy as np

from fusekit.program import Program


def arrays(flat: Any) -> dict[str, np.ndarray]:
    """A flat state on the host; what is donated later is copied."""
    return {name: np.array(value) for name, value in flat.items()}


def trained(program: Program, batches: Any, state: Any = None) -> tuple[dict, list[dict]]:
    """The flat state (of the first replica) after a step a batch, and the metrics of each."""
    state = program.init(0) if state is None else state
    found = []
    for batch in batches:
        state, metrics = program.step(state, batch)
        found.append({name: np.array(value) for name, value in metrics.items()})
    return arrays(program.flat(program.replica(state, 0))), found


def assert_close(one: dict, other: dict, *, atol: float, rtol: float = 0.0) -> None:
    """The same names, and values that differ by no more."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=atol, rtol=rtol, err_msg=name)


def gradients(flat: dict) -> dict[str, np.ndarray]:
    """The gradients of the first step, by parameter: after it, they are the optimiser's trace."""
    found = {}
    for name, value in flat.items():
        head, mark, path = name.partition(".trace.")
        if mark and head.startswith("optimizer"):
            found[path] = value
    assert found, "the optimizer keeps no trace: give it momentum"
    return found


def distance(one: dict, other: dict) -> float:
    """The norm of a difference of gradients, relative to their norm."""
    assert one.keys() == other.keys()
    gap = sum(float(np.sum((one[n].astype("float64") - other[n]) ** 2)) for n in one)
    size = sum(float(np.sum(other[n].astype("float64") ** 2)) for n in one)
    return (gap / size) ** 0.5

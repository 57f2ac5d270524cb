"""Steps in flight, and a guard against numbers that are not finite.

JAX runs steps behind Python's back. The window holds the metrics of the last few; reading those of
step n - depth bounds how far Python may run ahead. On CPU that is needed: with several virtual
devices in a process, unbounded asynchronous steps hang for good.
"""

import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fusekit.errors import FusekitError
from fusekit.program import Program
from fusekit.train.replicas import host, name_of, split

DEPTH = {"cpu": 4}
"""Steps in flight by platform; 16 elsewhere."""

Values = dict[str, NDArray[np.float64]]


class NonFiniteError(FusekitError):
    """Training met a loss, gradient or parameter that is not finite.

    Args:
      message: what was met.
      step: at which step, counted from 1.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class NonFiniteWarning(UserWarning):
    """One of several replicas met a number that is not finite; the others go on."""


class Guard:
    """Tells dead replicas from live ones.

    Args:
      program: whose metrics it reads.
    """

    def __init__(self, program: Program):
        self.program = program
        self.dead: dict[int, int] = {}
        """Replica -> the step at which it died."""

    def check(self, step: int, values: Values) -> None:
        """Reads the metrics of a step, `[replicas]` each. Raises `NonFiniteError` once no replica
        is left."""
        for index in range(self.program.replicas):
            each = {name: float(array[index]) for name, array in values.items()}
            if index not in self.dead and not all(map(np.isfinite, each.values())):
                first = sorted(each, key=lambda name: not name.startswith("loss"))
                terms = ", ".join(f"{name} {each[name]:.6g}" for name in first)
                self._died(index, step, terms)

    def check_state(self, step: int, state: Any) -> None:
        """Looks at every parameter, before a checkpoint is written."""
        for index, one in enumerate(split(self.program, state)):
            if index not in self.dead and not bool(host(_finite(one.params))):
                wrong = [
                    path
                    for path, array in self.program.parameters(one).items()
                    if not bool(host(_finite(array)))
                ]
                more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
                self._died(index, step, f"parameters {', '.join(wrong[:5])}{more}")

    def _died(self, index: int, step: int, what: str) -> None:
        self.dead[index] = step
        name = name_of(self.program, index)
        message = f"{f'{name}: ' if name else ''}not finite at step {step}: {what}"
        if len(self.dead) == self.program.replicas:
            hint = "the last checkpoint is from before; try a lower learning_rate, or clip"
            raise NonFiniteError(f"{message} ({hint})", step)
        warnings.warn(message, NonFiniteWarning, stacklevel=3)


@jax.jit
def _finite(tree: Any) -> jax.Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.asarray(True)


class Window:
    """The metrics of steps in flight.

    Args:
      program: on whose devices they run.
    """

    def __init__(self, program: Program):
        platform = program.layout.mesh.devices.flat[0].platform
        self.depth = DEPTH.get(platform, 16)
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()

    def push(self, step: int, metrics: dict[str, Any]) -> Iterator[tuple[int, Values]]:
        """Adds a step; gives the metrics of those that have left the window, `[replicas]` each."""
        self._waiting.append((step, metrics))
        while len(self._waiting) > self.depth:
            yield self._pop()

    def drain(self) -> Iterator[tuple[int, Values]]:
        """Waits for all steps."""
        while self._waiting:
            yield self._pop()

    def _pop(self) -> tuple[int, Values]:
        step, metrics = self._waiting.popleft()
        return step, {
            name: np.atleast_1d(host(value)).astype(np.float64) for name, value in metrics.items()
        }

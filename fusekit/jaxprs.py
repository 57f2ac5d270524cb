"""Looking into traced functions."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.extend as jex
from jax.interpreters.partial_eval import dce_jaxpr


def inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation holds. Of a custom derivative only the primal counts."""
    for key, value in params.items():
        if key in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun", "jvp_jaxpr_thunk"):
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            sub = getattr(one, "jaxpr", one)
            if hasattr(sub, "eqns"):
                yield sub


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation.params):
            yield from equations(inner)


class Sliced:
    """A traced function of which a part can be run without what only the rest needs.

    `choose` takes from the structure of the results those that are meant, as in
    `lambda out: out[0]["loss"]`.

    Args:
      function: of pytrees; what it closes over may be traced.
      args: arrays, or their shapes.
    """

    def __init__(self, function: Callable[..., Any], *args: Any):
        self._closed, self._shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        self._sizes = [len(jax.tree.leaves(arg)) for arg in args]

    def depends(self, choose: Callable[[Any], Any], on: int) -> bool:
        """Whether the chosen results depend on the argument of this number."""
        used = self._part(choose)[1]
        start = sum(self._sizes[:on])
        return any(used[start : start + self._sizes[on]])

    def only(self, choose: Callable[[Any], Any]) -> Callable[..., Any]:
        """The function that gives the chosen results alone."""
        jaxpr, used, order, tree = self._part(choose)

        def part(*args: Any) -> Any:
            leaves = jax.tree.leaves(args)
            given = [leaf for leaf, use in zip(leaves, used, strict=True) if use]
            found = jex.core.jaxpr_as_fun(jex.core.ClosedJaxpr(jaxpr, self._closed.consts))(*given)
            return jax.tree.unflatten(tree, [found[at] for at in order])

        return part

    def _part(self, choose: Callable[[Any], Any]) -> tuple[Any, list[bool], list[int], Any]:
        """The jaxpr of the chosen results, which arguments it needs, and where the results are."""
        leaves, tree = jax.tree.flatten(self._shapes)
        numbers, chosen = jax.tree.flatten(choose(jax.tree.unflatten(tree, range(len(leaves)))))
        wanted = [number in set(numbers) for number in range(len(leaves))]
        jaxpr, used = dce_jaxpr(self._closed.jaxpr, wanted)
        order = [sum(wanted[:number]) for number in numbers]
        return jaxpr, used, order, chosen

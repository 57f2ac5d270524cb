"""Looking into traced functions."""

from collections.abc import Iterator, Mapping
from typing import Any


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

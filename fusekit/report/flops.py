"""FLOPs of each node for one sample forward, counted on a jaxpr: no device, no weight, no compiler.

XLA's `Lowered.cost_analysis` counts the body of a loop once, so that a scanned stack or a recurrent
encoder looks cheaper than it is; here loops count as often as they run (a `while` whose number of
turns is not known counts once, a `cond` as its dearest branch).
"""

from collections import Counter
from math import prod
from typing import Any

import jax

from fusekit.batch import blank
from fusekit.context import Context
from fusekit.jaxprs import inner_jaxprs
from fusekit.model import FusionModel
from fusekit.scope import MARK, WORK
from fusekit.walk.run import Run

_FREE = frozenset(
    {
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "squeeze",
        "expand_dims",
        "convert_element_type",
        "slice",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "scatter",
        "concatenate",
        "pad",
        "iota",
        "rev",
        "copy",
        "copy_p",
        "stop_gradient",
        "bitcast_convert_type",
        "select_and_scatter",
        "sharding_constraint",
        "optimization_barrier",
        "random_bits",
        "random_wrap",
        "random_unwrap",
        "random_fold_in",
        "random_seed",
        "split",
        "sort",
        "top_k",
    }
)
_PRODUCTS = {
    "dot_general": "dimension_numbers",
    "ragged_dot_general": "ragged_dot_dimension_numbers",
}
_OVER_INPUT = ("reduce_", "arg", "cum")


def node_flops(model: FusionModel) -> dict[str, int]:
    """FLOPs by node for one sample in evaluation. What a stack's layers do for an operator (extra
    tokens, say) counts as the stack's.

    Args:
      model: best made with `scan=2`, so that equal layers are traced once.
    """
    batch = {name: shape for name, shape in blank(model, 1).items() if name != "valid"}

    def walk(params: Any, variables: Any, batch: Any) -> int:
        run = Run(model, params, dict(variables), Context(mode="evaluate"), batch)
        for item in model.items:
            run.item(item)
        return 0

    params, variables = model.abstract()
    traced = jax.make_jaxpr(walk)(params, variables, batch)
    return dict(count(traced.jaxpr))


def count(jaxpr: Any, name: str = "") -> Counter[str]:
    """FLOPs of a jaxpr by the innermost node mark; `name` stands for what has none."""
    found: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        owner = owner_of(equation, name)
        inner = [count(sub, owner) for sub in inner_jaxprs(equation.params)]
        told = _marks(equation, WORK)
        match equation.primitive.name:
            case "cond" if inner:
                found.update(max(inner, key=Counter.total))
            case "pallas_call":
                found[owner] += int(getattr(equation.params.get("cost_estimate"), "flops", 0) or 0)
            case "scan" if told:
                found[owner] += int(told[-1])
            case _ if inner:
                times = equation.params.get("length", 1) if _loops(equation) else 1
                for sub in inner:
                    found.update({key: value * times for key, value in sub.items()})
            case _:
                found[owner] += own(equation)
    return found


def owner_of(equation: Any, name: str = "") -> str:
    """The innermost node mark of an equation, or else `name`."""
    marks = _marks(equation, MARK)
    return marks[-1] if marks else name


def _marks(equation: Any, kind: str) -> list[str]:
    """What marks of a kind say, the innermost last."""
    names = [s.name for s in equation.source_info.name_stack.stack if hasattr(s, "name")]
    return [name.removeprefix(kind) for name in names if name.startswith(kind)]


def _loops(equation: Any) -> bool:
    return equation.primitive.name == "scan"


def own(equation: Any) -> int:
    """FLOPs of one primitive: two for a multiply-add, one for any other arithmetic."""
    primitive = equation.primitive.name
    out = sum(prod(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape"))
    if primitive in _PRODUCTS:
        numbers = equation.params[_PRODUCTS[primitive]]
        (contracted, _), _ = getattr(numbers, "dot_dimension_numbers", numbers)
        shape = equation.invars[0].aval.shape
        return 2 * out * prod(shape[axis] for axis in contracted)
    if primitive == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features_out = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * out * prod(kernel) // features_out
    if primitive in _FREE:
        return 0
    if primitive.startswith(_OVER_INPUT):
        return prod(equation.invars[0].aval.shape)
    return out

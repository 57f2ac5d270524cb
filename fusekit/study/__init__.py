"""Studies: does fusing pay? Strategies compared on the same data, seeds and budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusekit.study.alone import single
    from fusekit.study.comparison import Comparison, Difference, Entry
    from fusekit.study.contest import compare
    from fusekit.study.named import strategies

_HOMES = {
    "Comparison": "comparison",
    "Difference": "comparison",
    "Entry": "comparison",
    "compare": "contest",
    "single": "alone",
    "strategies": "named",
}

__all__ = ["Comparison", "Difference", "Entry", "compare", "single", "strategies"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

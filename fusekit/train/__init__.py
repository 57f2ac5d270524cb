"""Training: the loop, evaluation, checkpoints and what a run leaves."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusekit.train.checkpoint import Checkpoints, Restored
    from fusekit.train.evaluate import Gathered, gather
    from fusekit.train.experiment import Result, train
    from fusekit.train.guard import NonFiniteError
    from fusekit.train.loop import Fitted, fit, resumed, steps_of
    from fusekit.train.run import Run
    from fusekit.train.state import TrainState

_HOMES = {
    "Checkpoints": "checkpoint",
    "Fitted": "loop",
    "Gathered": "evaluate",
    "NonFiniteError": "guard",
    "Restored": "checkpoint",
    "Result": "experiment",
    "Run": "run",
    "TrainState": "state",
    "fit": "loop",
    "gather": "evaluate",
    "resumed": "loop",
    "steps_of": "loop",
    "train": "experiment",
}

__all__ = [
    "Checkpoints",
    "Fitted",
    "Gathered",
    "NonFiniteError",
    "Restored",
    "Result",
    "Run",
    "TrainState",
    "fit",
    "gather",
    "resumed",
    "steps_of",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the program needs `state` and `optimizer` alone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

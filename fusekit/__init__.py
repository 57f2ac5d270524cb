"""fusekit: declarative multimodal fusion on JAX.

import fusekit
experiment = fusekit.load("configs/examples/av_digits.yaml")
program = fusekit.compile(experiment)
state = program.init(seed=0)
state, metrics = program.step(state, batch)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusekit.api import compile, experiment, load, resolve
    from fusekit.component import register
    from fusekit.config.spec import Experiment
    from fusekit.context import Context
    from fusekit.errors import FusekitError
    from fusekit.layout import Layout
    from fusekit.program import Program
    from fusekit.stream import Signature, Stream

__version__ = "0.1.0"

_HOME = {
    "compile": "fusekit.api",
    "experiment": "fusekit.api",
    "load": "fusekit.api",
    "resolve": "fusekit.api",
    "register": "fusekit.component",
    "Context": "fusekit.context",
    "Experiment": "fusekit.config.spec",
    "FusekitError": "fusekit.errors",
    "Layout": "fusekit.layout",
    "Program": "fusekit.program",
    "Signature": "fusekit.stream",
    "Stream": "fusekit.stream",
}

__all__ = [
    "Context",
    "Experiment",
    "FusekitError",
    "Layout",
    "Program",
    "Signature",
    "Stream",
    "compile",
    "experiment",
    "load",
    "register",
    "resolve",
]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import fusekit` is quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'fusekit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)

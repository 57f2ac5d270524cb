"""The standard components of fusekit: a plug-in like any other.

Importing the package imports every module of its slot folders, and each module registers what it
defines. A new component is a new file; nothing else needs an edit.
"""

from importlib import import_module
from pkgutil import iter_modules, walk_packages

FUSEKIT_CONTRACT = 1

_SLOTS = (
    "modalities",
    "encoders",
    "fusion",
    "heads",
    "losses",
    "metrics",
    "sources",
    "transforms",
    "optimizers",
    "schedules",
)


def _import_all() -> None:
    present = {module.name for module in iter_modules(__path__)}
    for slot in _SLOTS:
        if slot not in present:
            continue
        package = import_module(f"{__name__}.{slot}")
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)


_import_all()

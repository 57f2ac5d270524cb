"""The standard components where some of their dependencies are not installed, as on a machine that
is lent for kernels: operations need JAX alone."""

import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def bare_modules() -> None:
    """Makes `fusekit_modules.ops` importable even if `fusekit_modules` as a whole is not."""
    for folder in (ROOT, ROOT / "modules", ROOT / "tpu"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        import fusekit_modules  # noqa: F401
    except ImportError:
        module = ModuleType("fusekit_modules")
        module.__path__ = [str(ROOT / "modules" / "fusekit_modules")]
        sys.modules["fusekit_modules"] = module

"""The fake components, in place of whatever is registered; files read once."""

from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from fusekit.config import compose, registry


def _fakes() -> ModuleType:
    spec = spec_from_file_location("config_fakes", Path(__file__).with_name("fakes.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKES = _fakes()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Only the fake components are registered while a test runs."""
    registry.load_plugins()
    known: dict[str, dict[str, type]] = {slot: {} for slot in registry.SLOTS}
    for spec in FAKES.FAKES:
        known[spec.slot][registry.type_name(spec)] = spec
    monkeypatch.setattr(registry, "_registered", known)
    monkeypatch.setattr(registry, "load_plugins", dict)
    return FAKES


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that many configs share, such as one that they extend, is parsed once a test."""
    monkeypatch.setattr(compose, "parse", lru_cache(maxsize=64)(compose.parse))

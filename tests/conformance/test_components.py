"""Every registered component obeys the laws; see `fusekit.conformance`."""

import pytest

from fusekit.config.registry import walk
from fusekit.conformance.cases import cases_of
from fusekit.conformance.run import TRIED, failures

COMPONENTS = [
    pytest.param(component, id=f"{slot}-{name}")
    for slot, name, component in walk()
    if slot in TRIED and component.__module__.startswith("fusekit_modules")
]


def broken(component, *, thorough):
    cases = cases_of(component, thorough=thorough)
    assert cases, "no example of the component fits any kind of input"
    return [f"[{case.name}] {name}: {why}" for case in cases for name, why in failures(case)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_laws(component):
    assert not broken(component, thorough=False)


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_laws_with_every_kind_of_input(component):
    assert not broken(component, thorough=True)

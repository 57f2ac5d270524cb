"""Every registered component obeys the laws; see `fusekit.conformance`."""

import pytest

from fusekit.component import OperatorSpec
from fusekit.config.registry import walk
from fusekit.conformance.cases import cases_of, has_laws
from fusekit.conformance.operators import check_operator
from fusekit.conformance.run import TRIED, failures

COMPONENTS = [
    pytest.param(component, id=f"{slot}-{name}")
    for slot, name, component in walk()
    if slot in TRIED and has_laws(component) and component.__module__.startswith("fusekit_modules")
]


def broken(component, *, thorough):
    cases = cases_of(component, thorough=thorough)
    assert cases, "no example of the component fits any kind of input"
    return [f"[{case.name}] {name}: {why}" for case in cases for name, why in failures(case)]


@pytest.mark.parametrize("component", COMPONENTS)
def test_laws(component):
    assert not broken(component, thorough=False)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_example_fits_some_kind_of_input(component):
    tried = [case.name for case in cases_of(component, thorough=True)]
    for settings in component.examples():
        assert any(name.endswith(str(settings or "defaults")) for name in tried), settings


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_laws_with_every_kind_of_input(component):
    assert not broken(component, thorough=True)


OPERATORS = [
    pytest.param(component, id=name)
    for slot, name, component in walk()
    if slot == "fusion" and issubclass(component, OperatorSpec)
    if component.__module__.startswith("fusekit_modules")
]
COSTLY = ("q_former", "experts", "resampler", "elastic_queries", "weight_generator")
"""Their laws are tried with the slow tests alone, in every mode."""


@pytest.mark.parametrize("component", [c for c in OPERATORS if c.id not in COSTLY])
def test_laws_of_operators(component):
    assert not list(check_operator(component, thorough=False))


@pytest.mark.slow
@pytest.mark.parametrize("component", OPERATORS)
def test_laws_of_operators_in_every_mode(component):
    assert not list(check_operator(component))

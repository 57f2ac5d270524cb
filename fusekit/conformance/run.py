"""Runs the suite over components and says what breaks."""

from collections.abc import Callable, Iterable, Iterator

from fusekit.component import MetricSpec, OperatorSpec
from fusekit.config.registry import walk
from fusekit.conformance.cases import Case, cases_of, has_laws
from fusekit.conformance.checks import CHECKS, COMPILED
from fusekit.conformance.metrics import check_metric
from fusekit.conformance.operators import check_operator
from fusekit.conformance.trial import Trial

TRIED = ("encoder", "fusion", "head", "loss", "metric", "modality")


def checks_of(case: Case) -> list[str]:
    """The names of the checks that hold a case."""
    return [name for name in CHECKS if not (case.light and name in COMPILED)]


def failures(case: Case) -> Iterator[tuple[str, str]]:
    """The (check, reason) pairs that a case fails."""
    if isinstance(case.spec, MetricSpec):
        yield from check_metric(case)
        return
    trial = Trial(case)
    for name in checks_of(case):
        try:
            CHECKS[name](trial)
        except Exception as error:
            yield name, f"{type(error).__name__}: {error}"


def run(
    names: Iterable[str] = (), *, thorough: bool = False, say: Callable[[str], None] = print
) -> int:
    """Tries components; gives how many checks failed.

    Args:
      names: `slot/name`, `slot.name`, or names; none: all.
      thorough: with every kind of input that fits.
      say: where each line goes.
    """
    wanted = set(names)
    failed = tried = 0
    for slot, name, component in walk():
        called = {name, f"{slot}/{name}", f"{slot}.{name}"}
        if wanted and not called & wanted:
            continue
        if slot not in TRIED or not (has_laws(component) or issubclass(component, OperatorSpec)):
            say(f"{slot}/{name}: the suite has no laws for it; its own tests must hold it")
            continue
        if issubclass(component, OperatorSpec):
            for law, problem in check_operator(component):
                failed += 1
                say(f"FAILED {slot}/{name} {law}: {problem}")
            tried += 1
            say(f"{slot}/{name}: in stacks")
        if not has_laws(component):
            continue
        cases = cases_of(component, thorough=thorough)
        if not cases:
            failed += 1
            say(f"FAILED {slot}/{name}: no example fits any kind of input")
        for case in cases:
            for check, problem in failures(case):
                failed += 1
                say(f"FAILED {slot}/{name} [{case.name}] {check}: {problem}")
            tried += len(checks_of(case))
        say(f"{slot}/{name}: {len(cases)} cases")
    if wanted and not tried + failed:
        say("nothing was tried")
        return 1
    say(f"{tried - failed} passed, {failed} failed")
    return failed

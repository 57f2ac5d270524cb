"""Runs the suite over components and says what breaks."""

from collections.abc import Callable, Iterable

from fusekit.config.registry import walk
from fusekit.conformance.cases import cases_of
from fusekit.conformance.checks import CHECKS

TRIED = ("encoder", "fusion", "head", "loss", "modality")


def run(names: Iterable[str] = (), *, say: Callable[[str], None] = print) -> int:
    """Tries components; gives how many checks failed.

    Args:
      names: `slot/name`, or names; none: all.
      say: where each line goes.
    """
    wanted = set(names)
    failed = tried = 0
    for slot, name, component in walk():
        if slot not in TRIED or (wanted and not {name, f"{slot}/{name}"} & wanted):
            continue
        for case in cases_of(component):
            for check_name, check in CHECKS.items():
                tried += 1
                try:
                    check(case)
                except Exception as error:
                    failed += 1
                    say(f"FAILED {slot}/{name} [{case.name}] {check_name}: {error}")
        say(f"{slot}/{name}: {len(cases_of(component))} cases")
    say(f"{tried - failed} passed, {failed} failed")
    return failed

"""The conformance suite: the laws that every component obeys, for ours and for anyone's.

`run(names)` tries components and prints what fails; `fusekit test-component` and our own tests
call the same checks.
"""

from fusekit.conformance.cases import Case, cases_of
from fusekit.conformance.checks import CHECKS
from fusekit.conformance.laws import BrokenError
from fusekit.conformance.run import run

__all__ = ["CHECKS", "BrokenError", "Case", "cases_of", "run"]

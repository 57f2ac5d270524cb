"""One process of a job over several: joins the others, then it is `fusekit`.

    python -m fusekit_tpu.worker train config.yaml --name pod

On TPUs and under Slurm, JAX finds the others by itself. Elsewhere three variables of the
environment say where they are: see `VARIABLES`.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from fusekit.errors import FusekitError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where the first process listens, as `host:port`; how many there are; which one this is."""


def joining(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `jax.distributed.initialize`; none where JAX finds out by itself.

    Raises `FusekitError` if only some of the variables are set, or if one is no number.
    """
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not given:
        return {}
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise FusekitError(f"{', '.join(given)} is set, but not {', '.join(missing)}")
    address, *numbers = given.values()
    for name, text in zip(VARIABLES[1:], numbers, strict=True):
        if not text.isdecimal():
            raise FusekitError(f"{name} is {text!r}: a number is due")
    count, number = map(int, numbers)
    return {"coordinator_address": address, "num_processes": count, "process_id": number}


def main() -> None:
    """Joins, then runs the command line of this process."""
    import jax

    from fusekit.cli.main import FAILED
    from fusekit.cli.main import main as fusekit

    try:
        arguments = joining(os.environ)
    except FusekitError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
    jax.distributed.initialize(**arguments)
    fusekit()


if __name__ == "__main__":
    main()

"""Starts one process a machine of a Ray cluster and waits for all.

    python -m fusekit_tpu.ray_head MACHINES GPUS COMMAND...

Each process gets the variables by which `fusekit train` joins the others. The first that
fails ends the job with its exit status.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where the first process listens, as `host:port`; how many there are; which one this is."""


def address() -> str:
    """Of the machine that this runs on, with a port that is free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"{socket.gethostbyname(socket.gethostname())}:{port}"


def process(first: str, count: int, number: int, command: Sequence[str]) -> int:
    """Runs the command as one process of several; its exit status."""
    given = dict(zip(VARIABLES, (first, str(count), str(number)), strict=True))
    return subprocess.run(command, env={**os.environ, **given}, check=False).returncode


def run(machines: int, gpus: int, command: Sequence[str]) -> int:
    """The first exit status that is not 0, or 0."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
        PlacementGroupSchedulingStrategy,
    )

    ray.init()
    bundle = {"GPU": gpus, "CPU": 1} if gpus else {"CPU": 1}
    group = ray.util.placement_group([bundle] * machines, strategy="STRICT_SPREAD")
    ray.get(group.ready())

    def on(number: int, function: object) -> object:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(function)
        return remote.options(scheduling_strategy=strategy)

    first = ray.get(on(0, address).remote())  # pyright: ignore[reportAttributeAccessIssue]
    waiting = [
        on(k, process).remote(first, machines, k, list(command))  # pyright: ignore[reportAttributeAccessIssue]
        for k in range(machines)
    ]
    while waiting:
        done, waiting = ray.wait(waiting)
        status = ray.get(done[0])
        if status:
            return status
    return 0


def main() -> None:
    """Runs the command line of this process."""
    machines, gpus, *command = sys.argv[1:]
    sys.exit(run(int(machines), int(gpus), command))


if __name__ == "__main__":
    main()

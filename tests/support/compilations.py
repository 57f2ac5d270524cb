"""How often programs are compiled."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations(name: str = "_step") -> Iterator[list[str]]:
    """While the block runs, one entry each; by default of a program's step.

    A cache does not tell: it may let a program go in a long process.
    """
    seen: list[str] = []

    def listen(event: str, _: float, **given: object) -> None:
        if event == EVENT and given.get("fun_name") == f"jit({name})":
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)

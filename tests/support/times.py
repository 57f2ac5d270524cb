"""How long something takes by itself."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float, of: str = "this") -> Iterator[None]:
    """Fails if the block works for longer, whatever it raises.

    It is time of this thread alone, in which what earlier tests left is not collected.
    """
    collects = gc.isenabled()
    gc.disable()
    began = time.thread_time()
    try:
        yield
    finally:
        took = time.thread_time() - began
        if collects:
            gc.enable()
        assert took < seconds, f"{of} took {took:.1f} s of {seconds}"

"""A dict that stays as it was made: frozen specs hold their entries in it."""

from typing import Any, NoReturn, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """Reads, compares, pickles and copies like a dict; whatever would change it is refused."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("an experiment is frozen: build another one from its sections")

    __setitem__ = __delitem__ = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]
    clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[type, tuple[dict[K, V]]]:
        return type(self), (dict(self),)

"""Whether what a checkpoint holds is what a program needs: by canonical path, all at once."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from fusekit.errors import CheckpointError, Problem, nearest
from fusekit.program import Program

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""By canonical path, shape and dtype."""


def shapes_of(arrays: Mapping[str, Any]) -> Shapes:
    return {path: (tuple(array.shape), str(array.dtype)) for path, array in arrays.items()}


def needed(program: Program) -> Shapes:
    """What one replica's state consists of; nothing is allocated."""
    return shapes_of(jax.eval_shape(program.flat, program.states.abstract))


def compare(due: Shapes, there: Shapes, where: str) -> None:
    """Raises `CheckpointError` with every path that is missing, unexpected or of another shape."""
    missing = [path for path in due if path not in there]
    unexpected = [path for path in there if path not in due]
    problems = [
        Problem(
            (path,),
            "is missing",
            expected=_show(due[path]),
            nearest=_alike(path, unexpected, due[path], there),
        )
        for path in missing
    ]
    problems += [
        Problem(
            (path,),
            "is there, but the program has no such path",
            found=_show(there[path]),
            nearest=_alike(path, missing, there[path], due),
        )
        for path in unexpected
    ]
    problems += [
        Problem((path,), "differs", found=_show(there[path]), expected=_show(due[path]))
        for path in due
        if path in there and there[path] != due[path]
    ]
    if problems:
        count = f"{len(problems)} path{'s' if len(problems) != 1 else ''}"
        lines = "\n".join(str(problem) for problem in problems)
        raise CheckpointError(f"{where} does not fit the program in {count}:\n{lines}")


def _show(entry: tuple[tuple[int, ...], str]) -> str:
    shape, dtype = entry
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _alike(
    path: str, others: Iterable[str], entry: tuple[tuple[int, ...], str], shapes: Shapes
) -> tuple[str, ...]:
    """Names that resemble a path; those of the same shape first."""
    close = nearest(path, others)
    return tuple(sorted(close, key=lambda other: shapes[other] != entry))

"""Numbers, shapes and layer ranges as short text."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from fusekit.config.reference import INPUT
from fusekit.stream import Signature

_SCALES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def short(number: float) -> str:
    """Three digits and a scale: `1.19 M`. Numbers below 10 000 are exact."""
    if number < 10_000:
        return f"{number:,.0f}".replace(",", " ")
    for position, (letter, size) in enumerate(_SCALES):
        if number >= size:
            text = _three(number / size)
            if text == "1000" and position:
                return f"1.00 {_SCALES[position - 1][0]}"
            return f"{text} {letter}"
    raise ValueError(f"not a count: {number}")


def _three(value: float) -> str:
    for digits, below in ((2, 9.995), (1, 99.95), (0, 999.5)):
        if value < below:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def layers(indices: Iterable[int]) -> str:
    """Layer indices as a point writes them: `3..5`, `0..8/4`, `input`, `1, 2, 7`."""
    order = list(indices)
    if order == [INPUT]:
        return "input"
    steps = {b - a for a, b in pairwise(order)}
    if len(order) > 2 and len(steps) == 1:
        (step,) = steps
        return f"{order[0]}..{order[-1]}" + (f"/{step}" if step != 1 else "")
    return ", ".join("input" if k == INPUT else str(k) for k in order)


def shape(signature: Signature) -> str:
    """Sizes without the batch: `32×32×3`, `one of 10`, `one number`."""
    if signature.shape:
        return "×".join(str(size) for size in signature.shape)
    return f"one of {signature.classes}" if signature.classes else "one number"


def signature(given: Signature) -> str:
    """Kind and shape, and whether padding or absence travels along."""
    words = [given.kind, shape(given)] if given.shape else [shape(given)]
    flags = [name for name in ("padded", "optional") if getattr(given, name)]
    return " ".join(words) + (f" ({', '.join(flags)})" if flags else "")


def plural(count: int, word: str) -> str:
    many = {"modality": "modalities", "loss": "losses"}.get(word, f"{word}s")
    return f"{count} {word if count == 1 else many}"


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))

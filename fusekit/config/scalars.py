"""What an unquoted YAML 1.2 scalar means (the core schema), and how a value is shown."""

import json
import re
from typing import Any

from fusekit.config.tree import Scalar

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_TRUE = re.compile(r"^(?:true|True|TRUE)$")
_FALSE = re.compile(r"^(?:false|False|FALSE)$")
_INT = re.compile(r"^[-+]?[0-9]+$")
_OCTAL = re.compile(r"^0o[0-7]+$")
_HEX = re.compile(r"^0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_INF = re.compile(r"^([-+]?)\.(?:inf|Inf|INF)$")
_NAN = re.compile(r"^\.(?:nan|NaN|NAN)$")

DIGITS = 100
"""A number of more characters is refused: no setting needs it."""


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar: `1e-4` is a float, `no` and `1_000` are text.

    Raises `ValueError` for a number of more than `DIGITS` characters.
    """
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.match(text):
            _short(text)
            return int(text if base == 10 else text[2:], base)
    if _FLOAT.match(text):
        _short(text)
        return float(text)
    if match := _INF.match(text):
        return float(match[1] + "inf")
    return float("nan") if _NAN.match(text) else text


def _short(text: str) -> None:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} characters is too long")


def show(value: Any, width: int = 60) -> str:
    """A value as a user might write it, cut to `width` characters."""
    text = _flow(value)
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _flow(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value[:200], ensure_ascii=False)
        case int() | float():
            return repr(value)
        case dict():
            pairs = [f"{key}: {_flow(item)}" for key, item in list(value.items())[:20]]
            return "{" + ", ".join(pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(_flow(item) for item in value[:20]) + "]"
        case _:
            return f"{type(value).__name__} {value}"

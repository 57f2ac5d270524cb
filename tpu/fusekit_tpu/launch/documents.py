"""YAML for Kubernetes: plain data in, block style out."""

import re
from collections.abc import Iterable
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

_PLAIN = re.compile(r"[A-Za-z/][\w./:-]*[\w/]")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
"""Kubernetes reads YAML 1.1, in which these are no text."""


class _Representer(RoundTripRepresenter):
    """Texts of several lines as blocks; others quoted unless they cannot be anything else."""

    def text(self, value: str) -> Any:
        if "\n" in value:
            style = "|"
        else:
            plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
            style = None if plain else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(str, _Representer.text)


def dumped(documents: Iterable[dict[str, Any]]) -> str:
    """Documents, one after the other."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.ignore_aliases = lambda data: True
    stream = StringIO()
    yaml.dump_all(list(documents), stream)
    return stream.getvalue()

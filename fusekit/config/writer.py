"""Back to YAML: `load(dump(experiment))` is the same experiment."""

from io import StringIO
from pathlib import PurePath
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from fusekit.config.reference import Place, Reference
from fusekit.config.scalars import resolve


def spec_fields(model: BaseModel) -> dict[str, Any]:
    """A spec as plain data, without what is at its default; a tag `type` is always there."""
    return plain(model, resolved=False)


def plain(value: Any, *, resolved: bool) -> Any:
    """Specs as dicts, tuples as lists, references as text. With `resolved` defaults are spelt
    out, so that nothing changes should a default ever change."""
    if isinstance(value, BaseModel):
        return {
            name: plain(getattr(value, name), resolved=resolved)
            for name, field in type(value).model_fields.items()
            if _told(name, field, value, resolved)
        }
    if isinstance(value, Reference | Place | PurePath):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item, resolved=resolved) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, resolved=resolved) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item, resolved=resolved) for item in value)
    return value


def _told(name: str, field: Any, model: BaseModel, resolved: bool) -> bool:
    """Whether a field is written. One that is null by default is not."""
    value = getattr(model, name)
    if getattr(model, "partial", False):
        return name in model.model_fields_set and value is not None
    if name == "version" or (name == "type" and len(get_args(field.annotation)) == 1):
        return True
    if field.default is not PydanticUndefined:
        default = field.default
    elif field.default_factory is not None:
        default = field.default_factory()
    else:
        return True
    return value != default or (resolved and value is not None)


class _Representer(RoundTripRepresenter):
    """Quotes text that would be read as something else."""

    def text(self, value: str) -> Any:
        try:
            special = not isinstance(resolve(value), str)
        except ValueError:
            special = True
        quoted = special or value.startswith("<<") or not value.isprintable()
        return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if quoted else None)


_Representer.add_representer(str, _Representer.text)


def emit(value: Any) -> str:
    """Plain data as YAML: sections are blocks, and what is in an entry is on its line."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 10_000
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    yaml.representer.ignore_aliases = lambda data: True
    stream = StringIO()
    yaml.dump(_styled(value, 0), stream)
    return stream.getvalue()


def _styled(value: Any, depth: int) -> Any:
    """The same for ruamel, with flow style from the third level on."""
    if isinstance(value, dict):
        made = CommentedMap({key: _styled(item, depth + 1) for key, item in value.items()})
    elif isinstance(value, list):
        made = CommentedSeq([_styled(item, depth + 1) for item in value])
    else:
        return value
    if depth >= 2 or isinstance(value, list) or not value:
        made.fa.set_flow_style()
    return made


def dump(experiment: BaseModel) -> str:
    """The experiment as YAML, without what is at its default."""
    return emit(spec_fields(experiment))


def dump_resolved(experiment: BaseModel) -> str:
    """The experiment as YAML with every default spelt out, as it is written beside checkpoints."""
    return emit(plain(experiment, resolved=True))

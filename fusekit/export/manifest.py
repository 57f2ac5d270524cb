"""`export.json`: what goes into an exported program, what comes out, and which files it has."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fusekit.errors import ExportError

FILE = "export.json"
FORMAT = 1
PARAMETERS = "parameters.safetensors"
BATCH = "batch"
"""What stands in a shape for the number of rows, of which there is at least one."""

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Port:
    """One array that goes in or comes out.

    Args:
      name: its key.
      shape: with `batch` first.
      dtype: as NumPy calls it.
    """

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Input:
    """An entry of a batch.

    Args:
      name: of the modality.
      kind: scalar, vector, sequence, table or grid.
      values: its contents.
      mask: where they are no padding, or which fields are known; `None`: everywhere.
      presence: which rows have the modality; `None`: all, it is not optional.
      classes: for integers, how many there are.
      names: of classes or fields, where declared.
      cardinalities: for tables, the categories of each field; 0 for a number.
      modality: how it was declared, which says how raw data were made into contents.
      standardised: mean and deviation of training rows by which raw data were scaled before.
      transforms: what the data source did to raw data besides, by type.
    """

    name: str
    kind: str
    values: Port
    mask: Port | None = None
    presence: Port | None = None
    classes: int | None = None
    names: tuple[str, ...] = ()
    cardinalities: tuple[int, ...] = ()
    modality: dict[str, Any] = field(default_factory=dict)
    standardised: dict[str, Any] | None = None
    transforms: tuple[str, ...] = ()

    @property
    def ports(self) -> tuple[Port, ...]:
        return tuple(port for port in (self.values, self.mask, self.presence) if port is not None)


@dataclass(frozen=True)
class Output:
    """What a head answers.

    Args:
      name: of the head; `<head>@<k>` where it answers at several points.
      values: such as logits.
      mask: which positions mean something; `None`: all.
      presence: which rows it can answer for; `None`: all.
      link: what makes probabilities of the values: softmax, sigmoid or none.
      names: of the classes, where declared.
    """

    name: str
    values: Port
    mask: Port | None = None
    presence: Port | None = None
    link: str = "none"
    names: tuple[str, ...] = ()

    @property
    def ports(self) -> tuple[Port, ...]:
        return tuple(port for port in (self.values, self.mask, self.presence) if port is not None)


@dataclass(frozen=True)
class Stored:
    """A file of the export: its name, size, and BLAKE2b hash of 256 bits."""

    file: str
    bytes: int
    blake2b: str
    custom_calls: tuple[str, ...] = ()
    """Of a program, what only the platform's compiler knows."""
    rows: int | None = None
    """Of a program, how many rows it takes at once, where kernels fix that; `None`: any number."""


@dataclass(frozen=True)
class Manifest:
    """What an export is.

    Args:
      name: of the experiment.
      inputs, outputs: of the program, which is called as `call(parameters, inputs)`.
      programs: by platform.
      parameters: their file.
      compute: the dtype of computation.
      precision: of matrix products; `default` is that of the process which runs it.
      coupled: nodes that make a row's answer depend on the other rows of its batch.
      versions: of the packages that made it.
      origin: where it comes from.
    """

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    programs: dict[str, Stored]
    parameters: Stored
    compute: str = "float32"
    precision: str = "default"
    coupled: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """That of a folder. Raises `ExportError` if it is none."""
        file = folder / FILE
        if not file.is_file():
            raise ExportError(f"{folder} is no export: it has no {FILE}")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            version = found["format"]
            if version == FORMAT:
                return _manifest(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ExportError(f"{file} does not describe an export: {told}") from error
        raise ExportError(f"{file} has format {version!r}; this fusekit reads {FORMAT}")


def _manifest(found: Mapping[str, Any]) -> Manifest:
    inputs = tuple(
        Input(**{**_ported(one), "cardinalities": tuple(one["cardinalities"])})
        for one in found["inputs"]
    )
    outputs = tuple(Output(**_ported(one)) for one in found["outputs"])
    programs = {platform: _stored(one) for platform, one in found["programs"].items()}
    read = {"inputs": inputs, "outputs": outputs, "programs": programs}
    read |= {"parameters": _stored(found["parameters"]), "coupled": tuple(found["coupled"])}
    return Manifest(**{**found, **read})


def _ported(one: Mapping[str, Any]) -> dict[str, Any]:
    ports = {
        key: None if one[key] is None else Port(**{**one[key], "shape": tuple(one[key]["shape"])})
        for key in ("values", "mask", "presence")
    }
    lists = {key: tuple(one[key]) for key in ("names", "transforms") if key in one}
    return {**one, **ports, **lists}


def _stored(one: Mapping[str, Any]) -> Stored:
    if Path(one["file"]).name != one["file"]:
        raise ValueError(f"{one['file']!r} is no file of the folder")
    return Stored(**{**one, "custom_calls": tuple(one["custom_calls"])})

"""Writes an export: programs, parameters and what they are."""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

from fusekit.backends import StandIn
from fusekit.errors import ExportError, nearest
from fusekit.export.coupling import coupled
from fusekit.export.function import Function
from fusekit.export.lower import PLATFORMS, PRECISIONS, custom_calls, lowered, serialised
from fusekit.export.manifest import FILE, PARAMETERS, Manifest, Stored
from fusekit.export.safetensors import save
from fusekit.program import Program
from fusekit.train.digest import digest
from fusekit.train.files import write

KERNELS = {
    "cuda": StandIn("gpu", "NVIDIA", "8.0"),
    "tpu": StandIn("tpu", "TPU v5 lite"),
}
"""By platform, the least device that its kernels are for. They are compiled where they run."""
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def export(
    program: Program,
    state: Any,
    folder: str | PathLike[str],
    *,
    heads: Collection[str] | None = None,
    platforms: Collection[str] = PLATFORMS,
    precision: str = "default",
    kernels: int | None = None,
    prepared: Callable[[list[str]], Mapping[str, Mapping[str, Any]]] | None = None,
    origin: Mapping[str, Any] | None = None,
    onnx: bool = False,
) -> Manifest:
    """Writes what a program answers into a new folder, for any number of rows.

    What only training needs (losses, teachers, labels) is left out, its parameters too.

    Args:
      program: of the model; where it is laid out does not matter.
      state: of one replica, whose parameters are written.
      folder: to be made.
      heads: which answers; default all.
      platforms: for which a program is written.
      precision: of matrix products: `default`, `high` or `highest`.
      kernels: rows that a program with kernels takes at once. It has some where the platform runs
        them and `mesh` asks for no other form. Default none: programs run on any device.
      prepared: of the names of inputs makes fields of `Input` that tell what was done to raw data.
      origin: to be noted.
      onnx: whether to write the answers as ONNX too.

    Raises:
      ExportError: there is no such head, platform or precision, a component cannot be exported, or
        the folder is there already.
    """
    _check("platform", platforms, PLATFORMS)
    _check("precision", [precision], PRECISIONS)
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists and is not an empty folder")
    function = Function(program.graph, heads)
    names = [one.name for one in function.inputs]
    done = prepared(names) if prepared else {}
    beside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        programs = {
            platform: _program(function, platform, precision, kernels, beside)
            for platform in platforms
        }
        flat = program.flat(state)
        parameters = {name: _leaf(flat, name) for name in function.used}
        save(beside / PARAMETERS, parameters)
        if onnx:
            from fusekit.export.onnx import write_onnx

            write_onnx(function, parameters, beside)
        meta = program.graph.experiment.meta
        manifest = Manifest(
            name=meta.name or folder.resolve().name,
            inputs=tuple(replace(one, **done.get(one.name, {})) for one in function.inputs),
            outputs=function.outputs,
            programs=programs,
            parameters=_stored(beside / PARAMETERS),
            compute=program.train.compute,
            precision=precision,
            coupled=coupled(function, parameters),
            versions=_versions(),
            origin=dict(origin or {}),
        )
        write(beside / FILE, manifest.text())
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return manifest


def _program(
    function: Function, platform: str, precision: str, kernels: int | None, folder: Path
) -> Stored:
    rows, exported = None, None
    if kernels is not None and platform in KERNELS:
        own = function.on(KERNELS[platform])
        exported = lowered(own, platform, precision=precision, rows=kernels)
        rows = kernels if any(one.kernels for one in own.choices) else None
    if exported is None or rows is None:
        exported = lowered(function, platform, precision=precision)
    file = folder / f"program.{platform}"
    file.write_bytes(serialised(exported))
    return replace(_stored(file, custom_calls(exported)), rows=rows)


def _stored(file: Path, calls: tuple[str, ...] = ()) -> Stored:
    return Stored(file.name, file.stat().st_size, digest(file), calls)


def _leaf(flat: Mapping[str, Any], name: str) -> Any:
    """A parameter, or a variable."""
    found = flat.get(f"params.{name}")
    return flat[f"variables.{name}"] if found is None else found


def _check(what: str, given: Collection[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ExportError(f"no {what} is called {name}: {', '.join(known)}{hint}")
    if not given:
        raise ExportError(f"which {what}? {', '.join(known)}")


def _versions() -> dict[str, str]:
    from fusekit import __version__

    found = {"fusekit": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""An operator of a separately installed package is like one of our own: in schema, reference, list,
check, training and conformance, with no change anywhere else."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

PACKAGE = '''
"""A package of somebody else's."""

from typing import Any, Literal

from flax import nnx

from fusekit.component import OperatorSpec, Positive, register
from fusekit.context import Context
from fusekit.layered import Branch, Edit, Operator
from fusekit.parameter import parameter

FUSEKIT_CONTRACT = 1


@register
class LayerScaleSpec(OperatorSpec):
    """x + g * x after the attention of each layer, g learned (after Touvron et al. 2021)."""

    uniform = True
    needs = frozenset({"then"})
    reads_inputs = False
    type: Literal["somebodys_scale"] = "somebodys_scale"
    start: Positive = 0.1

    def build_layer(self, index: int, streams: Any, reads: Any, *, rngs: nnx.Rngs) -> Any:
        return LayerScale(self.start, streams[0].width, rngs=rngs)


class LayerScale(Operator):
    def __init__(self, start: float, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.constant(start)
        self.gain = parameter(rngs, init, (width,), ("embed",))

    def enter(
        self, streams: Any, reads: Any, state: Any, *, layers: Any, context: Context
    ) -> Any:
        def scaled(stream: Any) -> Any:
            stream = stream.clean()
            return stream.with_(values=stream.values * self.gain[...].astype(stream.values.dtype))

        edit = Edit(then={"attention": Branch(scaled)})
        return tuple(edit for _ in streams), state
'''
CONFIG = """
version: 1
modalities:
  text: {type: tokens, vocab: 9, length: 4}
  label: {type: label, classes: 2}
encoders:
  text: {type: transformer, depth: 2, width: 8, heads: 2}
fusion:
  mine: {type: somebodys_scale, into: text@..}
heads:
  label: {type: classifier, input: text.mean, classes: 2}
losses:
  label: {type: cross_entropy, prediction: label, target: batch.label}
data:
  made: {type: synthetic, sizes: {train: 16, validation: 8}}
train: {batch: 8, steps: 2}
"""

USE = """
    import contextlib, io, json, sys
    from fusekit.cli.main import run
    from fusekit.report.reference import markdown

    def told(*words):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = run(list(words))
        return code, out.getvalue()

    found = {
        "list": told("list", "fusion"),
        "schema": told("schema"),
        "check": told("check", "own.yaml"),
        "train": told("train", "own.yaml", "--name", "own"),
        "conformance": told("test-component", "somebodys_scale"),
        "reference": (0, markdown()),
    }
    json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each command said where the package is installed as pip leaves it: files, and metadata
    with an entry point beside them."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    (site / "somebody").mkdir()
    (site / "somebody" / "__init__.py").write_text(PACKAGE)
    info = site / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fusekit.components]\nsomebody = somebody\n")
    (here / "own.yaml").write_text(CONFIG)
    paths = [str(site), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USE)],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((here / "found.json").read_text())


@pytest.mark.parametrize("command", ["list", "schema", "check", "train", "conformance"])
def test_every_command_takes_it(found, command):
    code, said = found[command]
    assert code == 0
    assert command in ("check", "train") or "somebodys_scale" in said


def test_schema_and_reference_describe_it(found):
    schema = json.loads(found["schema"][1])
    assert "somebodys_scale" in json.dumps(schema["$defs"])
    assert "x + g * x after the attention of each layer" in found["reference"][1]

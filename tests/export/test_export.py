"""What an export holds: the answers and nothing of training, the same on every platform."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fusekit
from fusekit.errors import ExportError
from fusekit.export import export, load
from fusekit.export.coupling import coupled
from fusekit.export.function import Function
from fusekit.export.lower import custom_calls, lowered
from fusekit.export.safetensors import load as arrays_in
from tests.export.conftest import SECTIONS, Toy, arrays_of, random_state


def test_parameters_are_those_that_the_answers_need(toy: Toy):
    there = set(arrays_in(toy.folder / "parameters.safetensors"))
    live = toy.program.parameters(toy.state)
    assert {path.split(".")[0] for path in live} == {
        "image", "text", "record", "kind", "words", "teacher"
    }  # fmt: skip
    wanted = {path for path in live if not path.startswith("teacher.")}
    statistics = {"image.layers.0.norm.mean", "image.layers.0.norm.variance"}
    assert there == wanted | statistics


def test_parameters_are_stored_as_they_are(toy: Toy):
    live = toy.program.flat(toy.state)
    for path, array in arrays_in(toy.folder / "parameters.safetensors").items():
        kind = "variables" if path.endswith((".mean", ".variance")) else "params"
        np.testing.assert_array_equal(array, live[f"{kind}.{path}"])


def test_the_manifest_tells_inputs_and_outputs(toy: Toy):
    found = json.loads((toy.folder / "export.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["inputs"]] == ["image", "text", "record"]
    image, text, record = found["inputs"]
    assert image["values"] == {"name": "image", "shape": ["batch", 4, 4, 1], "dtype": "float32"}
    assert image["presence"] == {"name": "image.presence", "shape": ["batch"], "dtype": "bool"}
    assert image["mask"] is None
    assert (text["classes"], text["values"]["dtype"]) == (11, "int32")
    assert text["mask"]["shape"] == ["batch", 5]
    assert (record["names"], record["cardinalities"]) == (["age", "ward"], [0, 3])
    assert record["presence"] is None
    kind, words = found["outputs"]
    assert (kind["name"], kind["link"], kind["names"]) == ("kind", "softmax", ["cat", "dog"])
    assert kind["values"]["shape"] == ["batch", 2]
    assert (words["link"], words["presence"]["name"]) == ("none", "words.presence")
    assert found["versions"]["fusekit"] == fusekit.__version__
    assert found["versions"]["jax"] == jax.__version__
    assert toy.manifest == load(toy.folder).manifest


def test_heads_cut_off_what_only_others_need(toy: Toy, tmp_path: Path):
    manifest = export(toy.program, toy.state, tmp_path / "one", heads=["words"], platforms=["cpu"])
    assert [one.name for one in manifest.inputs] == ["text"]
    there = arrays_in(tmp_path / "one" / "parameters.safetensors")
    assert {path.split(".")[0] for path in there} == {"text", "words"}
    arrays = arrays_of(4)
    given = {name: array for name, array in arrays.items() if name.startswith("text")}
    found = load(tmp_path / "one")(given)
    np.testing.assert_allclose(found["words"], toy.live(arrays)["words"], atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_each_platform_has_its_program(toy: Toy, platform: str):
    stored = toy.manifest.programs[platform]
    content = (toy.folder / stored.file).read_bytes()
    assert len(content) == stored.bytes
    program = jax.export.deserialize(bytearray(content))
    assert program.platforms == (platform,)
    assert program.nr_devices == 1
    shapes = {aval.shape[0] for aval in jax.tree.leaves(program.in_avals[-7:])}
    assert {str(size) for size in shapes} == {"batch"}
    text = program.mlir_module()
    assert "f64" not in text
    # checks of shapes, which are gone once the number of rows is known
    assert set(re.findall(r"custom_call @(\S+?)\(", text)) == {"shape_assertion"}
    assert stored.custom_calls == ("shape_assertion",)


def test_programs_hold_no_path_of_this_machine(toy: Toy):
    for stored in toy.manifest.programs.values():
        content = (toy.folder / stored.file).read_bytes()
        assert b".py" not in content
        assert str(Path(fusekit.__file__).parent).encode() not in content


def test_the_same_model_gives_the_same_bytes(toy: Toy, tmp_path: Path):
    again = export(toy.program, toy.state, tmp_path / "toy", platforms=["cpu"])
    assert again.programs["cpu"] == toy.manifest.programs["cpu"]
    assert again.parameters == toy.manifest.parameters


def test_precision_stands_in_the_program():
    graph = fusekit.resolve(SECTIONS | {"version": 1})
    text = lowered(Function(graph, ["words"]), "tpu", precision="highest").mlir_module()
    assert "precision = [HIGHEST, HIGHEST]" in text
    text = lowered(Function(graph, ["words"]), "tpu").mlir_module()
    assert "HIGHEST" not in text


def test_bfloat16_answers_come_as_float32(tmp_path: Path):
    kept = ("encoders", "heads", "parts", "losses")
    sections = {
        **{name: {} for name in kept},
        "version": 1,
        "modalities": {"text": SECTIONS["modalities"]["text"]},
        "encoders": {"text": SECTIONS["encoders"]["text"]},
        "heads": {"words": SECTIONS["heads"]["words"]},
        "losses": {"words": {"type": "cosine", "prediction": "words", "target": "words"}},
        "train": {"compute": "bfloat16"},
    }
    program = fusekit.compile(sections)
    state = random_state(program)
    manifest = export(program, state, tmp_path / "half", platforms=["cpu"])
    assert (manifest.compute, manifest.outputs[0].values.dtype) == ("bfloat16", "float32")
    arrays = {name: array for name, array in arrays_of(4).items() if name.startswith("text")}
    text: Any = (arrays["text"], arrays["text.mask"], arrays["text.presence"])
    live = program.predict(state, {"text": fusekit.Stream(*text)})["words"].values
    assert live.dtype == "bfloat16"
    found = load(tmp_path / "half")(arrays)["words"]
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, np.asarray(live, "float32"), atol=1e-2)


def test_float64_inside_is_refused(monkeypatch: pytest.MonkeyPatch):
    function = Function(fusekit.resolve(SECTIONS | {"version": 1}), ["words"])

    def doubled(self: Any, parameters: Any, inputs: Any) -> Any:
        wide = jax.numpy.asarray(parameters["words.out.kernel"], "float64")
        return {"words": wide.sum() + inputs["text"]}

    monkeypatch.setattr(Function, "__call__", doubled)
    with jax.enable_x64(True), pytest.raises(ExportError, match="computes in float64"):
        lowered(function, "cpu")


def test_custom_calls_are_found(monkeypatch: pytest.MonkeyPatch):
    """A factorisation is a call of a library on a CPU."""
    function = Function(fusekit.resolve(SECTIONS | {"version": 1}), ["words"])

    def factored(self: Any, parameters: Any, inputs: Any) -> Any:
        kernel = parameters["words.out.kernel"]
        return {"words": jax.numpy.linalg.cholesky(kernel.T @ kernel)}

    monkeypatch.setattr(Function, "__call__", factored)
    assert "lapack_spotrf_ffi" in custom_calls(lowered(function, "cpu"))


def test_a_component_that_asks_for_the_number_of_rows(monkeypatch: pytest.MonkeyPatch):
    function = Function(fusekit.resolve(SECTIONS | {"version": 1}), ["words"])

    def asking(self: Any, parameters: Any, inputs: Any) -> Any:
        return {"words": jax.numpy.zeros(len(inputs["text"]))}

    monkeypatch.setattr(Function, "__call__", asking)
    with pytest.raises(ExportError, match=r"test_export\.py:\d+ cannot do with any number of rows"):
        lowered(function, "cpu")


def test_what_cannot_be_exported_is_told(toy: Toy, tmp_path: Path):
    def failing(message: str, **options: Any) -> None:
        with pytest.raises(ExportError, match=message):
            export(toy.program, toy.state, tmp_path / "x", **options)
        assert not list(tmp_path.iterdir())

    failing("no head is called wrods: kind, words\n    did you mean: words", heads=["wrods"])
    failing("no platform is called gpu: cpu, cuda, tpu", platforms=["cpu", "gpu"])
    failing("which platform", platforms=[])
    failing("no precision is called hihg: .*did you mean high", precision="hihg")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()
    with pytest.raises(ExportError, match="exists and is not an empty folder"):
        export(toy.program, toy.state, tmp_path / "x")
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["mine"]


def _coupling(**fusion: Any) -> tuple[Function, dict[str, Any]]:
    text = {"type": "tokens", "vocab": 11, "length": 5}
    wide = {"type": "transformer", "depth": 1, "width": 8, "heads": 2}
    program = fusekit.compile(
        {
            "version": 1,
            "modalities": {"text": text, "label": {"type": "label", "classes": 2}},
            "encoders": {"text": wide},
            "heads": {"kind": {"type": "classifier", "input": "text.mean", "classes": 2}},
            "losses": {
                "kind": {"type": "cross_entropy", "prediction": "kind", "target": "batch.label"}
            },
            **fusion,
        }
    )
    function = Function(program.graph)
    flat = program.flat(random_state(program))
    return function, {name: flat[f"params.{name}"] for name in function.used}


def test_experts_couple_rows_only_by_ports_that_are_no_answers():
    experts = {"type": "experts", "into": "text@0", "experts": 4, "hidden": 8, "top": 1}
    function, parameters = _coupling(fusion={"mixed": experts})
    assert function.coupled == ("mixed",)
    assert coupled(function, parameters) == ()


def test_answers_that_depend_on_other_rows_are_noticed(monkeypatch: pytest.MonkeyPatch):
    function, parameters = _coupling()
    assert function.coupled == coupled(function, parameters) == ()
    monkeypatch.setattr(function, "coupled", ("kind",))
    assert coupled(function, parameters) == ()
    call = Function.__call__

    def centred(self: Any, parameters: Any, inputs: Any) -> Any:
        found = call(self, parameters, inputs)
        return {name: value - value.mean(0) for name, value in found.items()}

    monkeypatch.setattr(Function, "__call__", centred)
    assert coupled(function, parameters) == ("kind",)

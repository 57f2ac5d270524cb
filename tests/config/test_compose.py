"""`extends`, overrides and the change of a type, with the positions that survive them."""

from pathlib import Path

import pytest

from fusekit.config import compose
from fusekit.config.loader import Loaded, load, loads
from fusekit.errors import ConfigError, Position

pytestmark = pytest.mark.usefixtures("fakes")

BASE = """\
version: 1
modalities:
  image: {type: image, shape: [8, 8, 3]}
  label: {type: label, classes: 2}
encoders:
  image: {type: vit, depth: 4, width: 16}
  text: {type: vit, depth: 4, width: 16}
fusion:
  cross: {type: cross_attention, inputs: [image], into: text@2.., heads: 2}
heads:
  out: {type: classifier, input: text.mean, classes: 2}
losses:
  main: {type: cross_entropy, prediction: out, target: batch.label, smoothing: 0.1}
train: {steps: 10, clip: 1.0, optimizer: {type: adamw, weight_decay: 0.1}}
mesh: {params: {embed: fsdp, mlp: tensor}}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def problems(folder: Path, name: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder / f"{name}.yaml", overrides)
    return [problem.message for problem in caught.value.problems]


def over(text: str, folder: Path) -> Loaded:
    write(folder, base=BASE)
    return loads(f"extends: base.yaml\n{text}\nversion: 1\n", "top", folder=folder)


def test_deep_merge_and_positions(tmp_path: Path):
    loaded = over("encoders:\n  image: {depth: 6}\n", tmp_path)
    image = loaded.experiment.encoders["image"]
    assert (image.depth, image.width) == (6, 16)  # pyright: ignore
    assert loaded.locate(("encoders", "image", "depth")) == Position("top", 3, 18)
    assert loaded.locate(("encoders", "image", "width")) == Position("base.yaml", 6, 39)
    assert loaded.locate(("encoders", "image")) == Position("top", 3, 3)
    assert loaded.locate(("encoders", "text")) == Position("base.yaml", 7, 3)
    assert loaded.files == ("top", "base.yaml")


def test_lists_are_replaced_whole(tmp_path: Path):
    loaded = over("modalities: {image: {shape: [4, 4, 1]}}", tmp_path)
    assert loaded.experiment.modalities["image"].shape == (4, 4, 1)  # pyright: ignore


def test_null_deletes(tmp_path: Path):
    loaded = over("fusion: {cross: null}\ntrain: {clip: null}\n", tmp_path)
    assert loaded.experiment.fusion == {}
    assert loaded.experiment.train.clip is None
    assert over("losses: null\n", tmp_path).experiment.losses == {}


def test_null_that_deletes_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        over("fusion: {corss: null}\n", tmp_path)
    (problem,) = caught.value.problems
    assert problem.nearest == ("cross",)
    assert problem.position == Position("top", 2, 10)


def test_null_is_a_value_in_rule_tables(tmp_path: Path):
    loaded = over("mesh: {params: {embed: null}}", tmp_path)
    assert loaded.experiment.mesh.params == {"embed": None, "mlp": "tensor"}


def test_steps_take_epochs_away_and_the_reverse(tmp_path: Path):
    assert over("train: {epochs: 3}", tmp_path).experiment.train.steps is None
    write(tmp_path, later="version: 1\nextends: base.yaml\ntrain: {epochs: 3}")
    train = load(tmp_path / "later.yaml", ["train.steps=7"]).experiment.train
    assert (train.steps, train.epochs) == (7, None)


def test_several_bases_the_later_wins(tmp_path: Path):
    write(tmp_path, a="version: 1\ntrain: {seed: 1, batch: 2}", b="version: 1\ntrain: {seed: 3}")
    loaded = loads("version: 1\nextends: [a.yaml, b.yaml]", "top", folder=tmp_path)
    assert (loaded.experiment.train.seed, loaded.experiment.train.batch) == (3, 2)


def test_a_diamond_is_no_circle(tmp_path: Path):
    write(
        tmp_path,
        a="version: 1",
        b="version: 1\nextends: a.yaml",
        c="version: 1\nextends: a.yaml",
        d="version: 1\nextends: [b.yaml, c.yaml]",
    )
    assert load(tmp_path / "d.yaml").experiment.version == 1


def test_many_diamonds_take_no_time(tmp_path: Path):
    write(tmp_path, f0="version: 1")
    for index in range(1, 25):
        twice = f"version: 1\nextends: [f{index - 1}.yaml, f{index - 1}.yaml]"
        write(tmp_path, **{f"f{index}": twice})
    assert len(load(tmp_path / "f24.yaml").files) == 25


def test_circles_and_long_chains(tmp_path: Path):
    head = "version: 1\nextends: "
    write(tmp_path, a=f"{head}b.yaml", b=f"{head}a.yaml", me=f"{head}me.yaml")
    assert problems(tmp_path, "a") == ["files extend one another in a circle"]
    assert problems(tmp_path, "me") == ["files extend one another in a circle"]
    write(tmp_path, f0="version: 1")
    for index in range(1, 40):
        write(tmp_path, **{f"f{index}": f"{head}f{index - 1}.yaml"})
    assert problems(tmp_path, "f39") == ["more than 32 files extend one another"]


def test_missing_files(tmp_path: Path):
    write(
        tmp_path,
        base=BASE,
        a="extends: [bsae.yaml, /etc/passwd, 3, 'fusekit:../x.yaml']\nversion: 1",
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.yaml")
    found = {problem.message: problem for problem in caught.value.problems}
    assert found["there is no such file"].nearest[0] == "base.yaml"
    assert len(found) == 4
    assert all(problem.position and problem.position.line == 1 for problem in found.values())
    assert problems(tmp_path, "none") == ["there is no such file"]


def test_a_folder_is_no_config(tmp_path: Path):
    (tmp_path / "x.yaml").mkdir()
    assert problems(tmp_path, "x") == ["the file cannot be read"]


def test_the_configs_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = tmp_path / "shipped"
    (shipped / "base").mkdir(parents=True)
    (shipped / "zoo").mkdir()
    write(shipped / "base", tiny="version: 1\ntrain: {seed: 5}")
    write(shipped / "zoo", one="version: 1\nextends: ../base/tiny.yaml")
    monkeypatch.setattr(compose, "shipped", lambda: shipped)
    loaded = loads("version: 1\nextends: fusekit:zoo/one.yaml")
    assert loaded.experiment.train.seed == 5
    assert loaded.files == ("<text>", "fusekit:zoo/one.yaml", "fusekit:base/tiny.yaml")
    assert compose.shipped() == shipped


def test_a_text_without_a_folder_cannot_extend_files():
    with pytest.raises(ConfigError, match="in no file"):
        loads("version: 1\nextends: a.yaml")


@pytest.mark.parametrize("file", ["extends", "set"])
def test_a_new_type_keeps_inputs_and_into(tmp_path: Path, file: str):
    write(tmp_path, base=BASE)
    if file == "set":
        cross = load(tmp_path / "base.yaml", ["fusion.cross.type=bottleneck"])
    else:
        cross = over("fusion: {cross: {type: bottleneck}}", tmp_path)
    dumped = cross.experiment.fusion["cross"].model_dump(mode="json")
    assert dumped["inputs"] == ["image"]
    assert dumped["into"] == ["text@2.."]
    assert dumped["tokens"] == 4


def test_without_into_the_stacks_join_inputs(tmp_path: Path):
    write(tmp_path, base=BASE)
    loaded = load(tmp_path / "base.yaml", ["fusion.cross.type=concat"])
    assert loaded.experiment.fusion["cross"].model_dump(mode="json")["inputs"] == ["image", "text"]
    assert loaded.locate(("fusion", "cross", "inputs", 1)) == Position(
        str(tmp_path / "base.yaml"), 9, 57
    )


@pytest.mark.parametrize(
    ("inputs", "into", "joined"),
    [
        ("", "[a@3.., b@1]", ["a", "b"]),
        ("", "[a@3, a@input]", ["a"]),
        ("inputs: [b, a.mean], ", "[a@3.., b@1]", ["b", "a.mean", "a"]),
        ("inputs: {source: c, onto: a}, ", "[a@3, b@1]", {"b": "b", "source": "c", "onto": "a"}),
        ("", "part.lm@..", ["part.lm"]),
    ],
)
def test_how_stacks_join(inputs: str, into: str, joined: object):
    text = f"version: 1\nfusion: {{x: {{type: bottleneck, {inputs}into: {into}}}}}"
    loaded = loads(text, overrides=["fusion.x.type=concat"])
    assert loaded.experiment.fusion["x"].model_dump(mode="json")["inputs"] == joined


def test_the_change_itself_may_give_inputs(tmp_path: Path):
    loaded = over(
        "fusion: {cross: {type: concat, inputs: [text, image], axis: sequence}}", tmp_path
    )
    cross = loaded.experiment.fusion["cross"].model_dump(mode="json")
    assert (cross["inputs"], cross["axis"]) == (["text", "image"], "sequence")


def test_from_plain_to_operator_only_inputs_stay():
    text = "version: 1\nfusion: {x: {type: low_rank, inputs: [a, b], rank: 3}}"
    cross = loads(text, overrides=["fusion.x.type=bottleneck"]).experiment.fusion["x"]
    assert cross.model_dump(mode="json", exclude_defaults=True) == {"inputs": ["a", "b"]}


def test_input_of_heads_survives_and_nothing_else(tmp_path: Path):
    head = over("heads: {out: {type: projection, width: 3}}", tmp_path).experiment.heads["out"]
    assert str(head.input) == "text.mean"
    with pytest.raises(ConfigError) as caught:
        over("losses: {main: {type: info_nce}}", tmp_path)
    assert [problem.path for problem in caught.value.problems] == [("losses", "main", "inputs")]


def test_the_optimizer_changes_type_too(tmp_path: Path):
    optimizer = over("train: {optimizer: {type: sgd}}", tmp_path).experiment.train.optimizer
    assert optimizer.model_dump() == {"type": "sgd", "momentum": 0.0}


def test_an_unknown_new_type_is_the_only_complaint(tmp_path: Path):
    write(tmp_path, base=BASE)
    assert problems(tmp_path, "base", "fusion.cross.type=botleneck") == [
        "there is no fusion of this type"
    ]


def test_overrides_are_yaml_and_know_their_place(tmp_path: Path):
    write(tmp_path, base=BASE)
    loaded = load(
        tmp_path / "base.yaml",
        [
            "train.learning_rate=1e-4",
            "fusion.mix={type: concat, inputs: [image, text]}",
            "mesh.params.embed=[fsdp, tensor]",
            'mesh."params".heads=null',
            "train.seed=1",
            "train.seed=2",
            "losses.main.smoothing=null",
        ],
    )
    train = loaded.experiment.train
    assert (train.learning_rate, train.seed) == (1e-4, 2)
    assert loaded.experiment.mesh.params["embed"] == ("fsdp", "tensor")
    assert loaded.experiment.mesh.params["heads"] is None
    assert loaded.experiment.losses["main"].smoothing == 0.0  # pyright: ignore
    assert str(loaded.locate(("fusion", "mix", "inputs", 0))) == (
        "--set fusion.mix={type: concat, inputs: [image, text]}"
    )
    assert str(loaded.locate(("train", "seed"))) == "--set train.seed=2"


def test_the_order_of_overrides_does_not_matter(tmp_path: Path):
    write(tmp_path, base=BASE)
    both = ["fusion.cross.rank=3", "fusion.cross.type=low_rank"]
    one = load(tmp_path / "base.yaml", both).experiment
    assert one == load(tmp_path / "base.yaml", both[::-1]).experiment
    assert one.fusion["cross"].rank == 3  # pyright: ignore


@pytest.mark.parametrize(
    ("override", "message", "nearest"),
    [
        ("fusion.corss.heads=3", "`fusion` has no `corss` to change", ("cross",)),
        ("fuson.cross.heads=3", "there is no section `fuson`", ("fusion",)),
        ("fusion.cross.haeds=3", "fusion cross_attention has no field `haeds`", ("heads",)),
        ("train.lerning_rate=3", "train has no field `lerning_rate`", ("learning_rate",)),
        ("train.optimizer.momentum=0.5", "optimizer adamw has no field `momentum`", ()),
        ("fusion.corss=null", "`corss` is null, and there is no such entry", ("cross",)),
        ("heads.out.classes=two", "is not what is due here", ()),
        ("fusion.cross=3", "a fusion is a mapping with a `type`", ()),
        ("train=3", "is not what is due here", ()),
        ("train.batch", "an override is not of the right form", ()),
        ("=3", "an override is not of the right form", ()),
        ("a..b=3", "an override is not of the right form", ()),
        ("train.batch=", "a value is missing", ()),
        ("train.batch=[", "not YAML", ()),
        ("train.batch=!x 3", "tags are not part of the language", ()),
        ("train.batch=&x 3", "anchors are not part of the language", ()),
        ("train.clip={a: 1, a: 2}", "`a` is given twice", ()),
        ("extends=a.yaml", "a config cannot be given another base", ()),
        ("modalities.image.shape.0=4", "`shape` is a list, and lists are replaced whole", ()),
        ("fusion.cross.inputs.0=text", "`inputs` is a list, and lists are replaced whole", ()),
        ("parts.a.of=text", "is not what is due here", ()),
    ],
)
def test_overrides_that_fail(tmp_path: Path, override: str, message: str, nearest: tuple[str, ...]):
    write(tmp_path, base=BASE)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "base.yaml", [override])
    problem = caught.value.problems[0]
    assert problem.message.startswith(message)
    assert problem.nearest[:1] == nearest
    assert str(problem.position) == f"--set {override}"


def test_contradicting_overrides(tmp_path: Path):
    write(tmp_path, base=BASE)
    (found,) = problems(tmp_path, "base", "train.optimizer=null", "train.optimizer.b1=0.5")
    assert found.startswith("contradicts another override")

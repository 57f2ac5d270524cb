"""One character of one key is changed at a time: the message knows the right key.

Mutations are seeded.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fusekit.config import compose, loader
from fusekit.config.compose import shipped
from fusekit.config.loader import Loaded, load
from fusekit.config.registry import components
from fusekit.config.source import parse
from fusekit.config.tree import Node, plain
from fusekit.errors import ConfigError
from tests.config.limits import MEMORY, peak

GOLDEN = Path(__file__).with_name("golden")
SHIPPED = [
    pytest.param(
        file,
        id=f"{file.parent.name}-{file.stem}",
        marks=[pytest.mark.slow] if "zoo" in file.parts else [],
    )
    for file in sorted(shipped().rglob("*.yaml"))
]
"""Those of the zoo are many, and slow."""

pytestmark = pytest.mark.usefixtures("read_once")

FREE = [
    *[(section, "*") for section in ("encoders", "fusion", "heads", "losses", "metrics", "data")],
    *[(section, "*") for section in ("parts", "stages")],
    ("train", "tasks", "*"),
    ("stages", "*", "tasks", "*"),
    ("train", "groups", "*"),
    ("data", "*", "transforms", "*"),
    ("fusion", "*", "inputs", "*"),
    ("losses", "*", "inputs", "*"),
    ("data", "*", "missing", "*", "rate", "*"),
]
"""Keys that are names or roles which their author chose: another one, if nothing else refers to
it, is the same experiment under another name. Rates by class have values of the data as keys:
which of them never occur is told when the data are opened."""

LEGAL: dict[tuple[tuple[str, ...], str], str] = {}
"""Other keys whose misspelling is a config of another meaning, (path pattern, word): why."""

SHARE = 0.005
"""Of all misspellings at most so many may be legal."""


def matches(path: tuple[str | int, ...], patterns: list[tuple[str, ...]]) -> bool:
    return any(
        len(path) == len(pattern) and all(a in ("*", b) for a, b in zip(pattern, path, strict=True))
        for pattern in patterns
    )


def keys(
    node: Node, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    """Every key of a file: its path, and its value with the position of the key."""
    if isinstance(node.value, dict):
        for name, child in node.fields.items():
            yield (*path, name), child
            yield from keys(child, (*path, name))
    else:
        for index, child in enumerate(node.items):
            yield from keys(child, (*path, index))


def misspelt(key: str, rng: random.Random, every: bool) -> list[str]:
    """The key with one character changed, deleted or inserted: one of each, or at each place."""
    letters = "abcdefghijklmnopqrstuvwxyz_"

    def at(count: int) -> list[int]:
        return list(range(count)) if every else [rng.randrange(count)]

    found = [key[:i] + rng.choice(letters.replace(key[i], "")) + key[i + 1 :] for i in at(len(key))]
    found += [key[:i] + key[i + 1 :] for i in at(len(key)) if len(key) > 1]
    found += [key[:i] + rng.choice(letters) + key[i:] for i in at(len(key) + 1)]
    return [word for word in dict.fromkeys(found) if word != key]


def with_key(text: str, node: Node, key: str, word: str) -> str | None:
    """The text with another word where a key stands; None if the key is written otherwise."""
    assert node.key is not None
    lines = text.split("\n")
    line, at = lines[node.key.line - 1], node.key.column - 1
    if not line[at:].startswith(key):
        return None
    lines[node.key.line - 1] = line[:at] + word + line[at + len(key) :]
    return "\n".join(lines)


def hints_at(error: ConfigError, key: str, word: str) -> bool:
    """Whether the message leads to the key: it is suggested (`batch.image` suggests `image`), or
    it is what was looked for in vain and the misspelt one is suggested."""
    return any(
        key in (names := [part for name in problem.nearest for part in name.split(".")])
        or (word in names and key in f"{problem.message} {problem.found}")
        for problem in error.problems
    )


def renamed(tree: Any, path: tuple[str | int, ...], word: str) -> Any:
    """A copy of a tree whose key at a path is another word."""
    step, rest = path[0], path[1:]
    if isinstance(tree, list):
        return [renamed(it, rest, word) if i == step else it for i, it in enumerate(tree)]
    return {
        (word if name == step and not rest else name): (
            renamed(item, rest, word) if name == step and rest else item
        )
        for name, item in tree.items()
    }


def same(original: Loaded, path: tuple[str | int, ...], word: str, other: Loaded) -> bool:
    """Whether the only difference is the name of one entry to which nothing refers.

    An encoder without an input reads what its name says, so its name is more than a name.
    """
    entry: Any = plain(original.root)
    if renamed(entry, path, word) != plain(other.root):
        return False
    for step in path:
        entry = entry[step]
    return path[0] != "encoders" or "input" in entry


@dataclass
class Misspellings:
    """How many there were, those that were accepted with another meaning though they should not
    be, or were refused without the right hint, and those that `LEGAL` lists."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)
    legal: list[str] = field(default_factory=list)


def misspell_keys(
    file: Path, whole: Path, check: Callable[[Path], Loaded], every: bool
) -> Misspellings:
    """Misspells the keys of a file, which `whole` is or extends."""
    text = file.read_text(encoding="utf-8")
    original = check(whole)
    root = parse(text, file.name).root
    assert root is not None
    found = Misspellings()
    rng = random.Random(file.name)
    for path, node in keys(root):
        key = str(path[-1])
        for word in misspelt(key, rng, every):
            changed = with_key(text, node, key, word)
            if changed is None:
                continue
            found.count += 1
            label = f"{'.'.join(map(str, path))} -> {word}"
            file.write_text(changed, encoding="utf-8")
            try:
                loaded = check(whole)
            except ConfigError as error:
                if not hints_at(error, key, word):
                    found.wrong.append(f"{label}: no hint:\n{error}")
                continue
            if matches(path, FREE) and same(original, path, word, loaded):
                continue
            listed = any(matches(path, [pattern]) and word == it for pattern, it in LEGAL)
            (found.legal if listed else found.wrong).append(f"{label}: accepted")
    file.write_text(text, encoding="utf-8")
    return found


def check_path(path: Path) -> Loaded:
    """A file as far as anything is known without a device."""
    from fusekit.api import load_graph

    return load_graph(path)[0]


def wholes(folder: Path, file: Path) -> Path | None:
    """A config that can be run and that reads this file: itself, or one that extends it."""
    for whole in (file, *sorted(folder.rglob("*.yaml"))):
        try:
            loaded = check_path(whole)
        except ConfigError:
            continue
        read = [Path(name.replace("fusekit:", f"{folder}/")) for name in loaded.files]
        if file.resolve() in [path.resolve() for path in read]:
            return whole
    return None


@pytest.mark.parametrize("file", SHIPPED)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow, id="slow")])
def test_misspelt_keys(file: Path, every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a key with another character, the message knows the right one."""
    assert components("encoder"), "the standard components are not registered"
    folder = tmp_path / "configs"
    shutil.copytree(shipped(), folder)
    copy = folder / file.relative_to(shipped())
    for module in (compose, loader):
        monkeypatch.setattr(module, "shipped", lambda: folder)
    whole = wholes(folder, copy)
    if whole is None:
        pytest.skip("nothing that can be run reads this file")
    before = peak()
    found = misspell_keys(copy, whole, check_path, every)
    assert not found.wrong, "\n".join(found.wrong)
    assert len(found.legal) <= SHARE * found.count, "\n".join(found.legal)
    assert peak() - before < MEMORY


KNOWN_ONLY_TO_THE_GRAPH = [
    ("modalities", "*"),
    ("encoders", "*"),
    ("mesh", "params", "*"),
    ("mesh", "activations", "*"),
]


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("name", ["base/good.yaml", "right/all.yaml", "right/child.yaml"])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow, id="slow")])
def test_misspelt_keys_of_the_language(name: str, every: bool, tmp_path: Path):
    """Without the graph: what needs no knowledge of references is found already."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    file = tmp_path / "golden" / name
    wrong = misspell_keys(file, file, load, every).wrong
    paths = [tuple(label.split(" -> ")[0].split(".")) for label in wrong]
    assert [
        label
        for label, path in zip(wrong, paths, strict=True)
        if not matches(path, KNOWN_ONLY_TO_THE_GRAPH)
    ] == []

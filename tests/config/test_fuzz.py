"""Whatever a config file holds, the answer is an experiment or a `ConfigError`, and soon.

Whole configs are damaged, byte by byte and value by value. Mutations are seeded.
"""

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from fusekit.config.compose import shipped
from fusekit.config.loader import Loaded, loads
from fusekit.config.source import decode, parse
from fusekit.config.tree import plain
from fusekit.errors import ConfigError
from tests.config.limits import MEMORY, peak
from tests.support.times import within

pytestmark = pytest.mark.usefixtures("read_once")

GOLDEN = Path(__file__).with_name("golden")
SHIPPED = sorted(shipped().rglob("*.yaml"))
ALWAYS = [file for file in SHIPPED if "zoo" not in file.parts]
"""Those of the zoo take longer to check."""
SECONDS = 2.0

Check = Callable[[str, Path], Any]


def check_language(text: str, file: Path) -> Loaded:
    """As far as specs go."""
    return loads(text, file.name, folder=file.parent)


def check_graph(text: str, file: Path) -> Loaded:
    """As far as anything is known without a device."""
    from fusekit.graph import resolve
    from fusekit.patterns import check_patterns

    loaded = check_language(text, file)
    check_patterns(resolve(loaded.experiment, loaded.locate), loaded.locate)
    return loaded


TOKENS = [
    *["&a ", "*a", "!x ", "!!int ", "<<: ", "? ", ": ", "- ", "---\n", "...\n", "%YAML 1.1\n"],
    *["{", "}", "[", "]", ",", "'", '"', "|\n", ">\n", "#", "@", "`", "\\", "\t", "\n", "\r", " "],
    *["\0", "\x07", "\x85", "\u2028", "\ufeff", "\U0001f642", "é", '"\\uD800"', '"\\UFFFFFFFF"'],
    *["null", "~", "true", "no", "1e999", ".nan", "-.inf", "0x", "9" * 400, "-0", "1_0", "1e-4"],
    *["extends: base/good.yaml\n", "version: 1\n", "batch", "type", "inputs", "into", "@3..", "@"],
]
VALUES: list[Any] = [
    *[None, True, False, 0, -1, 1, 10**30, 0.5, -1e300, float("nan"), float("inf")],
    *["", " ", "x", "image", "image@3..", "batch.label", "\0", "a" * 5000, "type", "é"],
    *[[], {}, [[]], [None], {"type": "mlp"}, {"type": 3}, {"": {}}, {"a": {"b": {"c": 1}}}],
    *[["image"] * 50, {str(i): i for i in range(50)}],
]


def damaged(data: bytes, random: random.Random) -> bytes:
    """Up to five changes of bytes."""
    for _ in range(random.randint(1, 5)):
        at = random.randrange(len(data) + 1)
        until = min(len(data), at + random.randint(1, 30))
        match random.randrange(6):
            case 0:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + random.choice(TOKENS).encode("utf-8", "replace") + data[at:]
            case 2:
                data = data[:at] + data[until:]
            case 3:
                data = data[:until] + data[at:]
            case 4:
                lines = data.split(b"\n")
                random.shuffle(lines)
                data = b"\n".join(lines)
            case 5:
                data = data[:at]
    return data


def restructured(tree: Any, random: random.Random) -> Any:
    """Up to three changes of values and keys."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.randint(1, 3)):
        holders = list(_holders(tree))
        if not holders:
            return tree
        holder = random.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = random.choice(keys)
        match random.randrange(5):
            case 0:
                holder[key] = deepcopy(random.choice(VALUES))
            case 1:
                del holder[key]
            case 2:
                other = random.choice(holders)
                holder[key] = json.loads(json.dumps(random.choice(_values(other)) or None))
            case 3:
                holder[key] = [holder[key]]
            case 4 if isinstance(holder, dict):
                word = random.choice(["x", "batch", "type", "", "a b", "3", "inputs", "extends"])
                holder[word] = holder.pop(key)
    return tree


def _holders(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list) and tree:
        yield tree
        for child in _values(tree):
            yield from _holders(child)


def _values(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else list(tree)


def attack(files: list[Path], count: int, check: Check) -> tuple[int, int]:
    """How many mutations were accepted, and how many refused."""
    accepted = refused = 0
    before = peak()
    for seed in range(count):
        rng = random.Random(seed)
        file = rng.choice(files)
        data = file.read_bytes()
        if rng.random() < 0.6:
            data = damaged(data, rng)
        elif (root := parse(data.decode(), file.name).root) is not None:
            data = json.dumps(restructured(plain(root), rng), ensure_ascii=False).encode()
        try:
            with within(SECONDS, of=f"seed {seed}"):
                check(decode(data, file.name), file)
            accepted += 1
        except ConfigError as error:
            refused += 1
            unplaced = [problem for problem in error.problems if problem.position is None]
            if unplaced or not error.problems:
                raise AssertionError(f"seed {seed}: no position: {error}") from error
            str(error).encode()
        except Exception as error:
            error.add_note(f"seed {seed}, {file.name}:\n{data[:2000]!r}")
            raise
        assert peak() - before < MEMORY, f"seed {seed}"
    return accepted, refused


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow, id="slow")])
@pytest.mark.usefixtures("fakes")
def test_damaged_language(count: int):
    accepted, refused = attack(sorted(GOLDEN.rglob("*.yaml")), count, check_language)
    assert min(accepted, refused) > count // 100


@pytest.mark.skipif(not SHIPPED, reason="no configs are shipped")
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow, id="slow")])
def test_damaged_configs(count: int):
    accepted, refused = attack(ALWAYS if count <= 500 else SHIPPED, count, check_graph)
    assert min(accepted, refused) > count // 100

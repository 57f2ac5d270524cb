"""Every operation compiled for a TPU v5e that is not there, at the shapes that the project promises
something of.

    python -m tests.benchmarks.ops_tpu [--only attention gram]

Each operation is priced by its own script, in a process of its own, as libtpu reads its flags once.
An estimate below its floor fails, and so does a promise that is not kept. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
Promise = tuple[str, float, float]
"""What is promised, what was found, and the most that it may be."""


@dataclass(frozen=True)
class Priced:
    """A script with its arguments, and what its figures must come to."""

    script: str
    given: tuple[str, ...]
    promises: Callable[[Figures], list[Promise]]


def attention(found: Figures) -> list[Promise]:
    naive, ours = found["forward naive"], found["forward tpu"]
    return [
        ("forward, share of naive", ours["ms"] / naive["ms"], 1 / 2.5),
        ("forward, temporaries in MiB", ours["temp_mib"], 0.0),
        ("both, share of naive", found["both tpu"]["ms"] / found["both naive"]["ms"], 1.0),
    ]


def contrast(name: str, faster: float, smaller: float) -> Callable[[Figures], list[Promise]]:
    """With gradients, against XLA with all scores."""

    def promises(found: Figures) -> list[Promise]:
        naive, ours = found[f"{name} both naive"], found[f"{name} both tpu"]
        return [
            ("both, share of naive", ours["ms"] / naive["ms"], 1 / faster),
            ("both, share of temporaries", ours["temp_mib"] / naive["temp_mib"], 1 / smaller),
        ]

    return promises


def low_rank(found: Figures) -> list[Promise]:
    (case,) = (value for value in found.values() if isinstance(value, dict))
    return [(f"{way}, temporaries in MiB", case[way]["temp_mib"], 4.0) for way in WAYS]


def selective(found: Figures) -> list[Promise]:
    """Against a token after another, and against SSD as `docs/kernels.md` has it."""
    return [
        (f"{name}, share of {how}", found[f"{name} tpu"]["ms"] / found[f"{name} {how}"]["ms"], 0.2)
        for name in ("forward", "both")
        for how in ("unroll 1", "unroll 8")
    ]


def ssd(found: Figures) -> list[Promise]:
    """With 16 states, as fast as a prototype: 3.07 ms forward, 8.4 ms with gradients."""
    most = {"forward": 3.07, "both": 8.4}
    return [
        (name, value["ms"], most[name.split(", ")[-2]])
        for name, value in found.items()
        if name.endswith("ssd in chunks of 128") and "128 states" not in name
    ]


def vocabulary(found: Figures) -> list[Promise]:
    """With gradients, against logits."""
    theirs, ours = (found[f"{VOCABULARY} both {how}"] for how in ("logits", "xla"))
    return [
        ("both, share of time", ours["ms"] / theirs["ms"], 1.0),
        ("both, share of temporaries", ours["temp_mib"] / theirs["temp_mib"], 1 / 16),
    ]


VOCABULARY = "4096x768x32768"
WAYS = ("forward xla", "both xla")
OPERATIONS = {
    "attention": Priced("ops_stream_attention_tpu", (), attention),
    "info_nce": Priced(
        "ops_contrastive_tpu",
        ("--losses", "info_nce", "--rows", "32768"),
        contrast("info_nce 32768", 1.8, 30),
    ),
    "gram": Priced(
        "ops_contrastive_tpu",
        ("--losses", "gram", "--rows", "8192", "--hows", "naive", "tpu"),
        contrast("gram 8192", 1.4, 8),
    ),
    "low_rank": Priced("ops_low_rank_tpu", ("--cases", "0"), low_rank),
    "ssd": Priced("ops_state_space_tpu", ("--chunks", "128"), ssd),
    "selective_scan": Priced(
        "ops_selective_scan_tpu", ("--hows", "tpu", "unroll 1", "unroll 8"), selective
    ),
    "vocabulary": Priced("ops_vocab_tpu", ("--no-cpu",), vocabulary),
    "experts": Priced("ops_experts_tpu", ("--hows", "batched", "tpu"), lambda found: []),
}


def run(priced: Priced) -> Figures:
    """The figures that a script ends with."""
    command = [sys.executable, "-m", f"tests.benchmarks.{priced.script}", *priced.given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def below(found: Figures, floors: Figures, within: str = "") -> Iterator[str]:
    """Estimates that are below the floor, which nothing can be."""
    for name, value in found.items():
        if not isinstance(value, dict):
            continue
        yield from below(value, value, f"{within}{name}: ")
        floor = max(
            (f for n, f in floors.items() if n.endswith("_ms") and name.startswith(stem(n))),
            default=0.0,
        )
        if "ms" in value and value["ms"] < floor:
            yield f"{within}{name}: {value['ms']} ms is below the floor of {floor} ms"


def stem(name: str) -> str:
    """Of `forward floor_ms` or `text, both, least_ms`, what the estimates' names begin with."""
    return name.removesuffix("floor_ms").removesuffix("least_ms").strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(OPERATIONS), default=list(OPERATIONS))
    chosen = parser.parse_args()
    report: Figures = {"benchmark": "ops_tpu", "promises": {}, "figures": {}}
    broken: list[str] = []
    for name in chosen.only:
        found = report["figures"][name] = run(OPERATIONS[name])
        broken += [f"{name}: {line}" for line in below(found, found)]
        for what, value, most in OPERATIONS[name].promises(found):
            report["promises"][f"{name}: {what}"] = [round(value, 4), round(most, 4)]
            print(f"{name}: {what} {value:.4g}, at most {most:.4g}", flush=True)
            if value > most:
                broken.append(f"{name}: {what} is {value:.4g}, more than {most:.4g}")
    for line in broken:
        print(f"MISSED {line}")
    print(json.dumps({**report, "missed": broken}))
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()

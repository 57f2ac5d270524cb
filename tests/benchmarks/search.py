"""Searches of layouts against many layouts compiled one by one, for v5e:4x4.

    python tests/benchmarks/search.py [--models data memory expert] [--finalists 4] [--minutes 60]

For each model the search compiles at most `--finalists` layouts; then layouts are compiled in a
random order, at most `--most` of them, until the minutes are over: every mesh as it is (data),
every mesh with remat full and without (memory), every mesh with one size of `fsdp` (expert). It
tells how far the search's choice is from the best that fits among all that were compiled, and how
formulas rank those that fit (Spearman). What was compiled is kept in the user's cache folder, so
that running it again takes seconds. The last line is JSON.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from fusekit.api import load_graph
from fusekit.cli.options import without_device
from fusekit.plan import Cache, Topology, searched
from fusekit.plan.candidates import Candidate, price_all
from fusekit.plan.search import compiled

HERE = Path(__file__).parents[1] / "plan" / "search"
TOPOLOGY = Topology.parse("v5e:4x4")
MODELS = ("data", "memory", "expert")


def quiet(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


def space(model: str, experiment: Any) -> list[Candidate]:
    """The layouts that are compiled one by one, in a random order that is always the same."""
    every = price_all(experiment, TOPOLOGY, "scan", lambda text: None)
    remats = {"data": ("none",), "memory": ("full", "none"), "expert": ("none",)}[model]
    found = [one for one in every if one.microbatches == 1 and one.remat in remats]
    if model == "expert":
        found = [one for one in found if one.sizes["fsdp"] in (1, 4)]
    found.sort(key=str)
    random.Random(0).shuffle(found)
    return found


def row(one: Candidate) -> dict[str, Any]:
    assert one.compiled is not None
    return {
        "layout": str(one),
        "fits": one.compiled.fits,
        "formulas_ms": 1e3 * one.seconds,
        "compiled_ms": 1e3 * one.estimate,
        "formulas_gib": one.cost.peak / 2**30,
        "compiled_gib": one.compiled.cost.peak / 2**30,
    }


def verdict(model: str, found: Any, others: list[Candidate]) -> dict[str, Any]:
    by = {str(one): one for one in (*others, *found.tried)}
    fitting = [one for one in by.values() if one.compiled and one.compiled.fits]
    best = min(fitting, key=lambda one: one.estimate)
    rank = [one.seconds for one in fitting], [one.estimate for one in fitting]
    return {
        "model": model,
        "compiled": len(by),
        "fitting": len(fitting),
        "search_compiled": len(found.tried),
        "choice": None if found.best is None else str(found.best),
        "choice_fits": bool(found.best and found.best.compiled.fits),
        "best": str(best),
        "over_best": None if found.best is None else found.best.estimate / best.estimate - 1,
        "spearman": float(spearmanr(*rank)[0]) if len(fitting) > 2 else None,
        "layouts": [row(one) for one in sorted(by.values(), key=lambda one: one.estimate)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--finalists", type=int, default=4)
    parser.add_argument("--most", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=60)
    given = parser.parse_args()
    without_device()
    cache, end = Cache(), time.monotonic() + 60 * given.minutes
    experiments = {m: load_graph(HERE / f"{m}.yaml")[0].experiment for m in given.models}
    found, waiting = {}, {}
    for model, experiment in experiments.items():
        quiet(f"{model}: the search")
        found[model] = searched(
            experiment, TOPOLOGY, finalists=given.finalists, say=quiet, cache=cache
        )
        waiting[model] = space(model, experiment)[: given.most]
    done: dict[str, list[Candidate]] = {model: [] for model in experiments}
    while any(waiting.values()) and time.monotonic() < end:
        for model, experiment in experiments.items():
            if waiting[model] and time.monotonic() < end:
                one = waiting[model].pop(0)
                quiet(f"{model}: {one}")
                priced = compiled(experiment, TOPOLOGY, one, quiet, cache)
                done[model] += [priced] if priced.compiled else []
    verdicts = [verdict(model, found[model], done[model]) for model in experiments]
    for one in verdicts:
        print({name: value for name, value in one.items() if name != "layouts"}, flush=True)
    print(json.dumps({"benchmark": "search", "topology": str(TOPOLOGY), "models": verdicts}))


if __name__ == "__main__":
    main()

"""Steps and an evaluation on some meshes; run by every host of a test, and by the test itself."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from fusekit.api import load_graph

CONFIG = Path(__file__).with_name("small.yaml")
STEPS = 3


def measured(*sets: str, start: Any = None) -> tuple[dict[str, Any], Any]:
    """Losses of the first steps; metrics, numbers of rows and columns of the test split.

    Args:
      sets: changes of the config.
      start: a flat state to start from, which saves the time to compile how it is made.

    Returns:
      What was found, and the flat state that it began with.
    """
    from fusekit.program import Program
    from fusekit.train.evaluate import gather
    from fusekit.train.experiment import layout_of
    from fusekit.train.replicas import host
    from fusekit.train.splits import open_splits

    loaded, graph = load_graph(CONFIG, sets)
    layout = layout_of(loaded.experiment)
    program = Program(graph, layout=layout, steps=STEPS)
    splits = open_splits(loaded.experiment, layout)
    state = program.init() if start is None else program.restored(start)
    if start is None:
        start = {path: host(array).copy() for path, array in program.flat(state).items()}
    steps = []
    with closing(splits["train"]) as train:
        for _ in range(STEPS):
            state, metrics = program.step(state, next(train).streams)
            steps.append({name: float(host(value)) for name, value in metrics.items()})
    found: Any = gather(program, state, splits["test"])
    columns = found.columns["accuracy"]
    return {
        "steps": steps,
        "metrics": found.values(graph),
        "index": found.index.tolist(),
        "columns": {role: values.tolist() for role, values in columns.values.items()},
    }, start


def main(out: str, fresh: str, *meshes: str) -> None:
    from fusekit.hosts.join import joined

    found, start = {}, None
    with joined() as place:
        for mesh in meshes:
            found[mesh], kept = measured(*mesh.split(), start=start)
            start = None if fresh == "fresh" else kept
    assert place is not None
    Path(f"{out}-{place.process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A graph with fewer repeats of its equal layers, which compiles in a fraction of the time.

Layers that repeat with a period (those that the program may scan) cost the same each. So a program
with few repeats of each run, and one with some more of them, tell what all cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fusekit.graph.graph import Graph
from fusekit.graph.node import Event, Key, Objective, Read, Wire
from fusekit.graph.schedule import Scan
from fusekit.model import FusionModel
from fusekit.train.optimizer import labeller

LEAST = 3
"""Fewer repeats are not worth cutting."""


def runs_of(graph: Graph) -> tuple[Scan, ...]:
    """Runs of equal layers, or of periods of them, with at least `LEAST` repeats."""
    model = FusionModel(graph, scan=LEAST, apart=labeller(graph.experiment.train))
    return tuple(item for item in model.items if isinstance(item, Scan))


def shortened(graph: Graph, runs: Sequence[Scan], counts: Sequence[int]) -> Graph:
    """The graph with the first so many repeats of each run; what reads a later one reads the last
    that is left."""
    moved: dict[Key, Key] = {}
    gone: set[Event] = set()
    for run, count in zip(runs, counts, strict=True):
        last = run.repeats[count - 1]
        for repeat in run.repeats[count:]:
            gone.update(repeat)
            for event, kept in zip(repeat, last, strict=True):
                moved.update(zip(event.gives, kept.gives, strict=True))
    events = tuple(
        replace(event, reads=tuple((role, _moved(read, moved)) for role, read in event.reads))
        for event in graph.events
        if event not in gone
    )
    lost = {(event.kind, event.node, event.index) for event in gone}
    return replace(
        graph,
        events=events,
        inputs_of={key: value for key, value in graph.inputs_of.items() if key not in lost},
        losses=_objectives(graph.losses, moved),
        metrics=_objectives(graph.metrics, moved),
        every_loss=_objectives(graph.every_loss, moved),
        derived={},
    )


def _moved(read: Read, moved: Mapping[Key, Key]) -> Read:
    return replace(read, key=moved.get(read.key, read.key))


def _objectives(
    objectives: Mapping[str, Objective], moved: Mapping[Key, Key]
) -> dict[str, Objective]:
    def wire(one: Wire) -> Wire:
        return replace(one, reads=tuple(_moved(read, moved) for read in one.reads))

    return {
        name: replace(one, wires={role: wire(given) for role, given in one.wires.items()})
        for name, one in objectives.items()
    }

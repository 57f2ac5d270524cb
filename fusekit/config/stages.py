"""Stages of training: what each is by itself, and whether the names that it gives are declared."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusekit.config.declared import declared
from fusekit.config.frozen import FrozenDict
from fusekit.config.scalars import show
from fusekit.config.tree import Path
from fusekit.config.words import one_of
from fusekit.errors import Problem, nearest

if TYPE_CHECKING:
    from fusekit.config.spec import Experiment

NAMED = {
    "losses": "losses",
    "metrics": "metrics",
    "data": "data",
    "without": "fusion",
    "unread": "modalities",
}
"""Fields of a stage that name entries, and the sections of these."""


def staged(experiment: "Experiment") -> "dict[str, Experiment]":
    """Each stage as an experiment with this one stage as its `train`; none without stages. What any
    of them leaves away is kept (`keep: true`) in all."""
    left = {name for stage in experiment.stages.values() for name in stage.without}
    if left:
        fusion = {
            name: spec.model_copy(update={"keep": True}) if name in left else spec
            for name, spec in experiment.fusion.items()
        }
        experiment = experiment.model_copy(update={"fusion": FrozenDict(fusion)})
    trains = {name: stage.over(experiment.train) for name, stage in experiment.stages.items()}
    for name, train in trains.items():
        stored = {n: t for n, t in experiment.stages.items() if n != name and t.write}
        later = [*trains.values()][[*trains].index(name) :]
        unread = [target.partition(".")[2] for one in later for target in one.write]
        changes = {
            "unread": (*train.unread, *unread),
            "kept": (*train.kept, *(v for one in stored.values() for v in one.write.values())),
        }
        trains[name] = train.model_copy(update=changes)
    return {
        name: experiment.model_copy(update={"train": train, "stages": FrozenDict()})
        for name, train in trains.items()
    }


def check(sections: Mapping[str, Any]) -> Iterator[Problem]:
    """Names in `train` and `stages` that nothing has."""
    yield from _stage(("train",), sections.get("train"), sections, ())
    stages = sections.get("stages")
    before: list[str] = []
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        yield from _stage(("stages", str(name)), stage, sections, tuple(before))
        before.append(str(name))


def _stage(
    path: Path, stage: Any, sections: Mapping[str, Any], before: tuple[str, ...]
) -> Iterator[Problem]:
    """What is wrong with the names of one stage."""
    for field, section in NAMED.items():
        yield from _names((*path, field), _field(stage, field), sections, section)
    write = _field(stage, "write")
    for target in write if isinstance(write, Mapping) else ():
        name, where = str(target).removeprefix("batch."), (*path, "write", target)
        for problem in _names(where, [name], sections, "modalities"):
            yield replace(problem, path=where)
    tasks = _field(stage, "tasks")
    for name, task in tasks.items() if isinstance(tasks, Mapping) else ():
        for field in ("losses", "data"):
            where = (*path, "tasks", str(name), field)
            yield from _names(where, _field(task, field), sections, field)
    start = _field(stage, "start")
    for where, name in _stages_of((*path, "start"), start):
        if name not in before:
            due = one_of(before) if before else "a stage before this one, but there is none"
            message, close = "there is no earlier stage of this name", nearest(name, before)
            yield Problem(where, message, show(name), due, close, lacking=True)


def _stages_of(path: Path, start: Any) -> Iterator[tuple[Path, str]]:
    """The stages that a `start` names."""
    if isinstance(start, str):
        yield path, start
        return
    stage, average, copies = (_field(start, name) for name in ("stage", "average", "copies"))
    if isinstance(stage, str):
        yield (*path, "stage"), stage
    for name in average if isinstance(average, Mapping) else ():
        yield (*path, "average", str(name)), str(name)
    for target, source in copies.items() if isinstance(copies, Mapping) else ():
        for one in [source] if isinstance(source, str) else source or ():
            if isinstance(one, str):
                yield (*path, "copies", str(target)), one.partition(".")[0]


def _names(path: Path, given: Any, sections: Mapping[str, Any], section: str) -> Iterator[Problem]:
    known = declared(sections, section)
    if known is None or not isinstance(given, Mapping | list | tuple):
        return
    listed = not isinstance(given, Mapping)
    for index, name in enumerate(given):
        if isinstance(name, str) and name not in known:
            due = one_of(known) if known else f"an entry of {section}, but there are none"
            message, close = f"`{section}` has no entry of this name", nearest(name, known)
            where = (*path, index if listed else name)
            yield Problem(where, message, show(name), due, close, lacking=True)


def _field(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)

"""Some modalities alone: an experiment as it is when no others can be read."""

from collections.abc import Iterable, Mapping
from typing import Any

from fusekit.component import FusionSpec, ModalitySpec, OperatorSpec
from fusekit.config.reference import Reference
from fusekit.config.spec import Experiment
from fusekit.errors import FusekitError
from fusekit.graph.wiring import BATCH
from fusekit.study.reach import Reach, batch_names, names
from fusekit.study.spec import changed, redirected, with_sections


def single(experiment: Experiment, modality: str) -> Experiment:
    """The experiment in which nothing but `modality` can be read; see `only`."""
    return only(experiment, {modality})


def only(experiment: Experiment, modalities: Iterable[str]) -> Experiment:
    """The experiment in which nothing but these modalities can be read.

    Of each fusion the inputs stay that come from it; where one is left it stands in the fusion's
    place, so that a head reads the encoder itself. Operators that read others are gone, and with
    them heads, losses and metrics that need others. Data, labels and training are the same.

    Raises:
      FusekitError: nothing is left to be learnt.
    """
    reach, keep = Reach(experiment), frozenset(modalities)
    encoders = {n: s for n, s in experiment.encoders.items() if reach.of(n) <= keep}
    fusion, instead = _fusion(experiment, reach, keep)
    able = {*encoders, *fusion, *instead, BATCH}
    heads = {
        n: redirected(s, instead) for n, s in experiment.heads.items() if set(names(s)) <= able
    }
    able |= {*heads}
    losses, metrics = (
        {n: redirected(s, instead) for n, s in section.items() if set(names(s)) <= able}
        for section in (experiment.losses, experiment.metrics)
    )
    if not losses or (experiment.metrics and not metrics):
        raise FusekitError(f"with {', '.join(sorted(keep))} alone no loss, or no metric, is left")
    readers = [*heads.values(), *losses.values(), *metrics.values()]
    used = _used({**encoders, **fusion}, readers)
    encoders = {n: s for n, s in encoders.items() if n in used}
    fusion = {n: s for n, s in fusion.items() if n in used}
    return with_sections(
        experiment,
        modalities=_modalities(experiment, encoders, [*fusion.values(), *readers]),
        encoders=encoders,
        fusion=fusion,
        heads=heads,
        losses=losses,
        metrics=metrics,
    )


def _fusion(
    experiment: Experiment, reach: Reach, keep: frozenset[str]
) -> tuple[dict[str, FusionSpec], dict[str, Reference]]:
    """The fusions that are left, and what stands in the place of those that are not."""
    fusion: dict[str, FusionSpec] = {}
    instead: dict[str, Reference] = {}
    for name, spec in experiment.fusion.items():
        given = spec.inputs.values() if isinstance(spec.inputs, dict) else spec.inputs
        left = tuple(r for r in given if reach.reference(r) and reach.reference(r) <= keep)
        if isinstance(spec, OperatorSpec) and spec.into:
            if reach.of(name) <= keep:
                fusion[name] = spec
        elif reach.of(name) <= keep:
            fusion[name] = spec
        elif len(left) == 1:
            instead[name] = instead.get(str(left[0]), left[0])
        elif left:
            fusion[name] = changed(spec, inputs=left)
    return {n: redirected(s, instead) for n, s in fusion.items()}, instead


def _used(nodes: Mapping[str, Any], readers: Iterable[Any]) -> set[str]:
    """Names that are read, directly or by what is read; operators with what they edit."""
    waiting = [name for spec in readers for name in names(spec)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in nodes and name not in found:
            found.add(name)
            waiting += names(nodes[name])
            waiting += [
                operator
                for operator, spec in nodes.items()
                if any(place.stack == name for place in getattr(spec, "into", None) or ())
            ]
    return found


def _modalities(
    experiment: Experiment, encoders: Mapping[str, Any], others: list[Any]
) -> dict[str, ModalitySpec]:
    """All that data hold, so that nothing about them changes; views only where they are read."""
    read = {n for n, s in encoders.items() if s.input is None}
    read |= {n for s in (*encoders.values(), *others) for n in batch_names(s)}
    for name in reversed(experiment.modalities):
        if name in read:
            read |= set(batch_names(experiment.modalities[name]))
    return {
        name: spec if name in read else changed(spec, keep=True)
        for name, spec in experiment.modalities.items()
        if spec.of is None or name in read
    }

"""From which modalities the nodes of an experiment come."""

from typing import Any

from fusekit.component import EncoderSpec, NodeSpec
from fusekit.config.reference import Reference
from fusekit.config.spec import Experiment
from fusekit.graph.wiring import BATCH


def names(spec: Any) -> list[str]:
    """The nodes that a component reads."""
    return [reference.name for _, _, reference in spec.references()]


def batch_names(spec: Any) -> list[str]:
    """The modalities that a component reads directly."""
    found = [reference for _, _, reference in spec.references()]
    return [r.ports[0] for r in found if r.name == BATCH and r.ports]


def modalities_read(experiment: Experiment) -> tuple[str, ...]:
    """The modalities that reach a head: no labels, and no views."""
    reach = Reach(experiment)
    found = {m for name in experiment.heads for m in reach.of(name)}
    return tuple(name for name in experiment.modalities if name in found)


class Reach:
    """Answers for each node from which modalities its own inputs come; what operators bring into a
    stack from others is left aside, but an operator itself comes from all that it edits."""

    def __init__(self, experiment: Experiment):
        self.nodes: dict[str, NodeSpec] = {
            **experiment.encoders,
            **experiment.fusion,
            **experiment.heads,
        }
        self.modalities = experiment.modalities
        self._found: dict[str, frozenset[str]] = {}

    def of(self, name: str) -> frozenset[str]:
        """By the name of a node."""
        if name not in self._found:
            self._found[name] = frozenset()
            self._found[name] = self._of(name)
        return self._found[name]

    def _of(self, name: str) -> frozenset[str]:
        spec = self.nodes.get(name)
        if spec is None:
            return frozenset()
        if isinstance(spec, EncoderSpec) and spec.input is None:
            return self.modality(name)
        read = [self.reference(reference) for _, _, reference in spec.references()]
        edited = [self.of(place.stack) for place in getattr(spec, "into", None) or ()]
        return frozenset().union(*read, *edited)

    def reference(self, reference: Reference) -> frozenset[str]:
        """By a reference to a node or a modality."""
        if reference.name == BATCH:
            return self.modality(reference.ports[0]) if reference.ports else frozenset()
        return self.of(reference.name)

    def modality(self, name: str) -> frozenset[str]:
        """The modality itself, or the one that a view is made of."""
        spec = self.modalities.get(name)
        if spec is None:
            return frozenset()
        return frozenset({name}) if spec.of is None else self.reference(spec.of)

"""What annotate stages store: references that are wired, checked and gathered as metrics are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from fusekit.component import MetricSpec, ModalitySpec, Signatures
from fusekit.config.reference import Ref, Reference
from fusekit.errors import Problem, WiringError
from fusekit.stream import Signature

if TYPE_CHECKING:
    from fusekit.config.spec import Experiment

VALUE = "value"
Path = tuple[str | int, ...]


class Written(MetricSpec):
    """A stream that a stage stores as a modality, or that another stage reads."""

    type: Literal["written"] = "written"
    value: Ref
    into: ModalitySpec | None = None

    def references(self) -> Iterator[tuple[Path, str, Reference]]:
        yield (), VALUE, self.value

    def check(self, inputs: Signatures) -> None:
        """Raises `WiringError` if the modality cannot hold the stream."""
        given = inputs[VALUE]
        due = None if self.into is None else self.into.signature()
        if not isinstance(due, Signature):
            return
        if not holds(due, given):
            raise WiringError("the modality is of another kind", found=given, expected=str(due))
        for flag in ("optional", "padded"):
            if getattr(given, flag) and not getattr(due, flag):
                expected = f"{flag}: true on the modality"
                raise WiringError(f"the modality is never {flag}", found=given, expected=expected)


def holds(due: Signature, given: Signature) -> bool:
    """Whether a modality can hold a stream: one of its sizes, or logits of its classes."""
    if given.dtype == due.dtype and given.shape == due.shape:
        return given.classes == due.classes
    return chosen(due, given)


def chosen(due: Signature, given: Signature) -> bool:
    """Whether the modality is of classes, and the stream holds logits of them."""
    logits = given.dtype == "float" and given.shape[:-1] == due.shape
    return due.dtype == "int" and logits and given.shape[-1:] == (due.classes,)


def writes_of(experiment: "Experiment") -> "dict[str, tuple[Path, Written]]":
    """What the stage stores, by modality."""
    found: dict[str, tuple[Path, Written]] = {}
    for target, value in experiment.train.write.items():
        name = target.partition(".")[2]
        fields: dict[str, Any] = {"value": value, "into": experiment.modalities.get(name)}
        found[name] = ("train", "write", target), Written.model_construct(**fields)
    return found


def kept_of(experiment: "Experiment") -> "dict[str, tuple[Path, Written]]":
    """What other stages store, so that it is no dead end here."""
    paths: dict[Path, Reference] = {}
    for number, value in enumerate(experiment.train.kept):
        paths["train", "kept", number] = value
    for name, stage in experiment.stages.items():
        paths |= {("stages", name, "write", t): value for t, value in stage.write.items()}
    return {
        ".".join(map(str, path)): (path, Written.model_construct(value=value))
        for path, value in paths.items()
    }


def untimely(experiment: "Experiment", read: set[str]) -> Iterator[Problem]:
    """Modalities that the stage does not read, and that its losses or metrics come to.

    Args:
      experiment: whose stage.
      read: the nodes that its losses, metrics and what it stores come from.
    """
    names = [name for name in experiment.train.unread if f"batch.{name}" in read]
    if names:
        yield Problem(
            ("train",),
            "losses or metrics of the stage need what it does not read",
            found=", ".join(f"batch.{name}" for name in names),
            expected="losses and metrics that do without, or a stage before that writes it",
        )

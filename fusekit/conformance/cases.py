"""Cases: a component's example settings with inputs that fit it.

Inputs come from a small catalogue of signatures. A component is tried with every kind; a kind that
its `infer` refuses is none of its cases, but one kind at least must fit. Every case is tried with
optional, padded inputs; the first, too, with inputs always present and whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from fusekit.component import (
    Component,
    EncoderSpec,
    FusionSpec,
    HeadSpec,
    LossSpec,
    MetricSpec,
    ModalitySpec,
    NodeSpec,
    OperatorSpec,
)
from fusekit.conformance.padding import longer
from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, Stream, sequence, vector

BATCH = 4
WIDTH = 8

KINDS: dict[str, Signature] = {
    "vector": vector(WIDTH),
    "sequence": sequence(6, WIDTH, label="a"),
    "tokens": Signature((("time", 6),), "int", (Span("a", 6),), classes=11),
    "signal": Signature((("time", 12),), spans=(Span("a", 12),)),
    "image": Signature((("height", 8), ("width", 8), ("channel", 3))),
    "spectrogram": Signature((("time", 8), ("frequency", 8))),
    "video": Signature((("time", 4), ("height", 8), ("width", 8), ("channel", 3))),
    "table": Signature((("field", 3),), cardinalities=(0, 4, 0), names=("x", "y", "z")),
    "number": Signature(()),
    "class": Signature((), "int", classes=5),
    "labels": vector(5),
    "logits": vector(5),
    "token_logits": sequence(6, 5, label="a"),
    "token_labels": Signature((("time", 6),), "int", (Span("a", 6),), classes=5),
    "objects": Signature((("time", 6),), "int", (Span("a", 6),), classes=4),
    "boxes": sequence(6, 4, label="a"),
}


@dataclass(frozen=True)
class Case:
    """One way to use a component.

    Args:
      spec: with its settings.
      inputs: signatures by role.
      name: for a reader.
      light: hold only the laws that need no compilation.
    """

    spec: Component
    inputs: dict[str, Signature]
    name: str
    light: bool = False

    def streams(
        self, seed: int, *, garbage: float = 0.0, present: float = 0.6
    ) -> dict[str, Stream]:
        """Random inputs; where padded or absent, `garbage`."""
        rng = np.random.default_rng(seed)
        return {
            role: random_stream(signature, rng, garbage=garbage, present=present)
            for role, signature in self.inputs.items()
        }

    def longer(self, by: int) -> "Case | None":
        """The case with more positions in every padded sequence; `None` if it has none, or if it
        does not take them."""
        inputs = {role: longer(s, by) or s for role, s in self.inputs.items()}
        if inputs == self.inputs or not _fits(self.spec, inputs):
            return None
        return replace(self, inputs=inputs)


def random_stream(
    signature: Signature, rng: np.random.Generator, *, garbage: float, present: float
) -> Stream:
    """A random batch of a signature. The first row is always whole; the second is there, but all
    of it is padding."""
    shape = (BATCH, *signature.shape)
    if signature.dtype == "float":
        values: Any = rng.normal(size=shape).astype("float32")
        for column, count in enumerate(signature.cardinalities):
            if count:
                values[:, column] = rng.integers(0, count, BATCH)
    elif signature.dtype == "bool":
        values = rng.random(shape) < 0.5
    else:
        values = rng.integers(0, signature.classes or 2, shape).astype("int32")
    mask: Any = None
    presence: Any = None
    if signature.padded:
        mask = rng.random(shape[:2]) < 0.6
        mask[:, 0] = mask[0] = True
        mask[1] = False
    if signature.optional:
        presence = rng.random(BATCH) < present
        if present > 0:
            presence[:2] = True
    bad = np.zeros(shape, bool)
    if mask is not None:
        bad |= ~mask.reshape(mask.shape + (1,) * (len(shape) - 2))
    if presence is not None:
        bad |= ~presence.reshape((BATCH,) + (1,) * (len(shape) - 1))
    fill = garbage if signature.dtype == "float" else (1 if garbage else 0)
    values = np.where(bad, np.asarray(fill, values.dtype), values)
    return Stream(values, mask, presence, spans=signature.spans, grid=signature.grid)


def varied(signature: Signature) -> Iterator[tuple[str, Signature]]:
    """The signature as it is; and optional, and padded if it has positions."""
    yield "whole", signature
    padded = len(signature.sizes) > 0 and signature.axes[0] in ("time", "field")
    yield "missing", signature.with_(optional=True, padded=padded)


def has_laws(component: type[Component]) -> bool:
    """Whether a component makes streams of streams. Modalities do only if they are views, and
    operators only if they work without `into` too."""
    if issubclass(component, OperatorSpec):
        return component.infer is not OperatorSpec.infer
    return not issubclass(component, ModalitySpec) or component.infer is not ModalitySpec.infer


def cases_of(component: type[Component], *, thorough: bool = False) -> list[Case]:
    """Cases of a component: its first example settings with inputs of the first kind that fits,
    optional ones, and whole ones, `light`; `thorough`: all settings, with every kind that fits,
    whole and not, and all laws.

    Operators on stacks, and sources, have their own tests.
    """
    found: list[Case] = []
    for settings in component.examples()[: None if thorough else 1]:
        fitting = 0
        for kinds, inputs in _inputs(component):
            for variant in ("missing", "whole"):
                if fitting and not thorough:
                    continue
                chosen = {role: dict(varied(KINDS[kind]))[variant] for role, kind in inputs.items()}
                spec = _spec(component, settings, chosen)
                if spec is None or not _fits(spec, chosen):
                    continue
                name = f"{kinds}, {variant}, {settings or 'defaults'}"
                light = variant == "whole" and not thorough
                found.append(Case(spec, chosen, name, light))
            fitting += any(case.name.startswith(f"{kinds},") for case in found)
    return found


def _inputs(component: type[Component]) -> Iterator[tuple[str, dict[str, str]]]:
    """Roles and kinds to try: those that the component names, or else by slot."""
    if own := component.example_inputs():
        for inputs in own:
            yield ", ".join(inputs.values()), inputs
    elif issubclass(component, ModalitySpec):
        for kind in KINDS:
            yield kind, {"of": kind}
    elif issubclass(component, EncoderSpec | HeadSpec):
        for kind in KINDS:
            yield kind, {"input": kind}
    elif issubclass(component, FusionSpec):
        few = {"sequence": (2, 3, 1)}  # fusions of sequences are the dear ones to compile
        for kind in ("vector", "sequence", "logits"):
            for count in few.get(kind, (3, 2, 1)):
                yield f"{count} x {kind}", {f"m{i}": kind for i in range(count)}
    elif issubclass(component, LossSpec | MetricSpec):
        roles = [name for name in component.model_fields if name in LOSS_ROLES]
        if "input" in roles:
            for kind in ("number", "vector"):
                yield kind, {"input": kind}
            return
        if "inputs" in component.model_fields:
            for count, kind in ((2, "vector"), (3, "vector"), (2, "sequence")):
                yield f"{count} x {kind}", {f"m{i}": kind for i in range(count)}
            return
        for prediction in ("number", "logits", "token_logits", "sequence"):
            for target in ("number", "class", "labels", "token_labels", "sequence"):
                yield f"{prediction}, {target}", {"prediction": prediction, "target": target}


LOSS_ROLES = ("input", "prediction", "target")


def _spec(
    component: type[Component], settings: dict[str, Any], inputs: dict[str, Signature]
) -> Component | None:
    fields: dict[str, Any] = dict(settings)
    if issubclass(component, FusionSpec):
        if issubclass(component, OperatorSpec) and settings.get("into"):
            return None
        fields.setdefault("inputs", tuple(inputs))
    elif issubclass(component, LossSpec | MetricSpec):
        own = [role for role in inputs if role in component.model_fields]
        if component.example_inputs():
            fields = {**{role: f"some.{role}" for role in own}, **fields}
        elif "inputs" in component.model_fields:
            fields["inputs"] = tuple(inputs)
        else:
            fields = {**{role: f"some.{role}" for role in inputs}, **fields}
    elif issubclass(component, ModalitySpec):
        fields.setdefault("of", "batch.some")
    else:
        fields.setdefault("input", "some")
    try:
        return component.model_validate(fields)
    except ValidationError:
        return None


def _fits(spec: Component, inputs: dict[str, Signature]) -> bool:
    try:
        if isinstance(spec, LossSpec | MetricSpec):
            named = {role for _, role, _ in spec.references()}
            spec.check({role: value for role, value in inputs.items() if role in named})
        elif isinstance(spec, NodeSpec):
            spec.infer(inputs)
    except (WiringError, NotImplementedError):
        return False
    return True

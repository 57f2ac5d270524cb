"""What a component is: a frozen spec with `infer` and `build`, beside an NNX module.

The spec is what a config declares. `infer` is pure Python over `Signature`s and complains with
`WiringError`. `build` gives an ordinary NNX module that takes the spec's fields as its settings.

Streams reach a component as a mapping. A field of type `Ref` arrives under the field's name
(`input`, `prediction`, `target`); the entries of `inputs` arrive under their role, if `inputs` is
a mapping, or under the text of the reference, in order.
"""

from fusekit.component.base import (
    Component,
    Count,
    Coupling,
    Depth,
    Outputs,
    Positive,
    Rate,
    Remat,
    Signatures,
    Width,
)
from fusekit.component.data import (
    SourceSpec,
    TransformSpec,
)
from fusekit.component.layered import (
    Layered,
    OperatorSpec,
    StackSpec,
)
from fusekit.component.node import (
    Absent,
    EncoderSpec,
    FusionSpec,
    HeadSpec,
    ModalitySpec,
    NodeSpec,
)
from fusekit.component.objective import (
    LossSpec,
    LossValue,
    MetricSpec,
)
from fusekit.component.training import (
    OptimizerSpec,
    ScheduleSpec,
)
from fusekit.config.registry import register

__all__ = [
    "Absent",
    "Component",
    "Count",
    "Coupling",
    "Depth",
    "EncoderSpec",
    "FusionSpec",
    "HeadSpec",
    "Layered",
    "LossSpec",
    "LossValue",
    "MetricSpec",
    "ModalitySpec",
    "NodeSpec",
    "OperatorSpec",
    "OptimizerSpec",
    "Outputs",
    "Positive",
    "Rate",
    "Remat",
    "ScheduleSpec",
    "Signatures",
    "SourceSpec",
    "StackSpec",
    "TransformSpec",
    "Width",
    "register",
]

"""Components that train: optimisers and schedules."""

from typing import Any, ClassVar

from fusekit.component.base import Component


class OptimizerSpec(Component):
    """`build(learning_rate) -> optax.GradientTransformation`."""

    slot: ClassVar[str] = "optimizer"

    elementwise: ClassVar[bool] = True
    """Whether each number is updated by itself. If not (norms or factors of whole matrices), the
    optimiser is shown one array a layer, never several layers stacked in one."""

    def build(self, learning_rate: Any) -> Any:
        raise NotImplementedError


class ScheduleSpec(Component):
    """`build(steps) -> optax.Schedule`, for a stage of so many steps."""

    slot: ClassVar[str] = "schedule"

    def build(self, steps: int) -> Any:
        raise NotImplementedError

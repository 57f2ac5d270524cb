"""Accuracy."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Count, Signatures, register
from fusekit.errors import WiringError
from fusekit_modules.metrics._scored import ClassesSpec, Floats, both_classes


@register
class AccuracySpec(ClassesSpec):
    """Share of rows, or of tokens, or of a grid's positions (pixel accuracy), whose class is among
    the `top` highest logits.

    Of equal logits the class of the lower number counts as higher.
    """

    type: Literal["accuracy"] = "accuracy"
    top: Count = Field(1, description="how many guesses a row has")

    def check(self, inputs: Signatures) -> None:
        """As of all metrics of classes; and with as many guesses as classes all would be right."""
        super().check(inputs)
        classes = max(inputs["prediction"].width, 2)
        if self.top >= classes:
            raise WiringError(
                "with so many guesses every row is right",
                found=f"top: {self.top} of {classes} classes",
                expected=f"at most {classes - 1}",
                field=("top",),
            )

    def score(self, prediction: Floats, target: NDArray) -> float:
        logits, target = both_classes(prediction), target.astype(np.int64)
        own = np.take_along_axis(logits, target[:, None], axis=1)
        earlier = np.arange(logits.shape[1]) < target[:, None]
        ahead = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
        return float(np.mean(ahead < self.top))

"""What metrics of regression share."""

from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from fusekit.component import Signatures
from fusekit.errors import WiringError
from fusekit_modules.losses._count import check_where
from fusekit_modules.losses._match import differ
from fusekit_modules.metrics._scored import Floats, ScoredSpec


class ErrorSpec(ScoredSpec):
    """A metric of real numbers, averaged over their features, of samples or tokens."""

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"prediction": "head", "target": "batch.number"}]

    def check(self, inputs: Signatures) -> None:
        """Real numbers of one shape. Raises `WiringError` otherwise."""
        prediction, target = inputs["prediction"], inputs["target"]
        for role, given in (("prediction", prediction), ("target", target)):
            if given.dtype != "float" or given.kind in ("table", "grid"):
                raise WiringError(
                    f"the {role} holds no real numbers",
                    found=given,
                    expected="numbers, vectors or sequences of real numbers",
                    field=(role,),
                )
        if (prediction.shape or (1,)) != (target.shape or (1,)):
            raise differ(prediction, target, "shapes", f"shape {prediction.shape}")
        check_where(inputs, prediction.length if prediction.kind == "sequence" else None)

    def score(self, prediction: Floats, target: NDArray) -> float:
        return self.error(prediction - target.reshape(prediction.shape))

    def error(self, difference: Float[np.ndarray, "m d"]) -> float:
        raise NotImplementedError

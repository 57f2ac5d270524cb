"""Accuracy of the class whose description is nearest."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import MetricSpec, Signatures, register
from fusekit.config.reference import Ref, Refs
from fusekit.errors import WiringError
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.metrics._retrieval import normalised, similarities, vectors_of
from fusekit_modules.metrics._scored import Columns


@register
class ZeroShotAccuracySpec(MetricSpec):
    """Share of rows whose first input is most similar to the prototype of their class (Radford et
    al. 2021, section 3.1).

    The second input holds what describes the row's class, such as a prompt that names it: the
    prototype is the mean of these over the rows of the class, each of length one, as an ensemble
    of prompts. Where it holds what describes the row itself, the row's own class has seen the
    answer. Of equal similarities the class of the lower number wins. Classes without a row have no
    prototype and cannot be named; with fewer than two classes it is NaN.
    """

    type: Literal["zero_shot_accuracy"] = "zero_shot_accuracy"
    inputs: Refs = Field(description="what is classified, and what describes its class")
    target: Ref = Field(description="the class")

    @classmethod
    def examples(cls) -> list[dict]:
        return [{"inputs": ["m0", "m1"], "target": "batch.label"}]

    @classmethod
    def example_inputs(cls) -> list[dict[str, str]]:
        """Roles and kinds of streams that fit the examples, which the suite cannot guess."""
        return [{"m0": "vector", "m1": "vector", "target": "class"}]

    def check(self, inputs: Signatures) -> None:
        """Two vectors of one width, and a label. Raises `WiringError` otherwise."""
        vectors = {role: given for role, given in inputs.items() if role != "target"}
        expect_count(vectors, least=2, most=2)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        target = inputs["target"]
        if target.kind != "scalar" or target.dtype != "int":
            raise WiringError(
                "the target is no class", found=target, expected="a label", field=("target",)
            )

    def compute(self, columns: Columns, rows: Bool[np.ndarray, "n"]) -> float:
        rows = np.asarray(rows, bool)
        found = vectors_of(columns, rows, self.inputs, "cosine")
        if found is None:
            return float("nan")
        classes, number = np.unique(columns["target"][rows], return_inverse=True)
        if len(classes) < 2:
            return float("nan")
        return accuracy(*found, number, len(classes))


def accuracy(
    queries: Float[np.ndarray, "m d"],
    descriptions: Float[np.ndarray, "m d"],
    number: NDArray[np.int64],
    classes: int,
) -> float:
    """Of vectors of length one."""
    total = np.zeros((classes, queries.shape[1]))
    np.add.at(total, number, descriptions)
    prototypes = normalised(total)
    right = [
        found.argmax(axis=1) == number[part] for part, found in similarities(queries, prototypes)
    ]
    return float(np.mean(np.concatenate(right)))

"""Muon."""

from collections.abc import Mapping
from typing import Any, Literal

import optax
from optax.contrib import MuonDimensionNumbers
from pydantic import Field

from fusekit.component import Count, Positive, register
from fusekit.parameter import Axes
from fusekit_modules.optimizers._fields import DecayingSpec, Momentum

SINGLY = ("expert", "rank", "layers")
"""Of arrays that begin with such an axis and are matrices without it, each matrix counts singly."""

NO_MATRIX = ("bias", "scale", "table", "tokens")
"""Parameters of these names are rows of vectors, whatever their shape."""


@register
class MuonSpec(DecayingSpec):
    """Orthogonalised momentum for matrices (Jordan et al. 2024); AdamW for all other arrays.

    A kernel is the matrix from all its inputs to all its outputs: heads are flattened, a
    convolution's places are inputs, and experts are matrices of their own. Biases, norms, learned
    tokens and tables of embeddings and positions are no matrices.

    With `rms` a matrix's step has that root mean square whatever its shape, so that both may share
    a learning rate (Liu et al. 2025, section 2.2: 0.2).
    """

    elementwise = False
    type: Literal["muon"] = "muon"
    momentum: Momentum = Field(0.95, description="decay of the momentum of matrices")
    nesterov: bool = Field(True, description="look ahead by one step of momentum")
    iterations: Count = Field(5, description="Newton-Schulz iterations")
    rms: Positive | None = Field(None, description="root mean square of a matrix's step")
    b1: Momentum = Field(0.9, description="of AdamW")
    b2: Momentum = Field(0.999, description="of AdamW")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"rms": 0.2, "weight_decay": 0.1, "nesterov": False}]

    def build(self, learning_rate: Any) -> optax.GradientTransformation:
        """For arrays of which nothing is known: those of two axes are matrices."""
        return self._build(learning_rate, None)

    def build_by_axes(
        self, learning_rate: Any, axes: Mapping[str, Axes]
    ) -> optax.GradientTransformation:
        """For a mapping from paths to arrays, whose axes have these names."""
        known = {path: matrix_of(path, names) for path, names in axes.items()}
        return self._build(learning_rate, lambda tree: {path: known[path] for path in tree})

    def _build(self, learning_rate: Any, matrices: Any) -> optax.GradientTransformation:
        return optax.contrib.muon(
            learning_rate,
            ns_steps=self.iterations,
            beta=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            adam_b1=self.b1,
            adam_b2=self.b2,
            adam_weight_decay=self.weight_decay,
            muon_weight_dimension_numbers=matrices,
            consistent_rms=self.rms,
        )


def matrix_of(path: str, axes: Axes) -> MuonDimensionNumbers | None:
    """Which axes of a parameter are inputs and which outputs; axes in neither are of single
    matrices. `None`: it is no matrix.

    The outputs are the last axis, or `heads, head_dim` if it ends in these; all before them are
    inputs.
    """
    if path.rpartition(".")[2] in NO_MATRIX or "vocab" in axes or "time" in axes:
        return None
    first = 1 if len(axes) > 2 and axes[0] in SINGLY else 0
    last = len(axes) - (2 if tuple(axes[-2:]) == ("heads", "head_dim") else 1)
    if last <= first:
        return None
    return MuonDimensionNumbers(tuple(range(first, last)), tuple(range(last, len(axes))))

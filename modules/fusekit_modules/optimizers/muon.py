"""Muon."""

from typing import Any, Literal

import optax
from pydantic import Field

from fusekit.component import Count, Positive, register
from fusekit_modules.optimizers._fields import DecayingSpec, Momentum


@register
class MuonSpec(DecayingSpec):
    """Orthogonalised momentum for matrices (Jordan et al. 2024); AdamW for all other arrays.

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
        return optax.contrib.muon(
            learning_rate,
            ns_steps=self.iterations,
            beta=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            adam_b1=self.b1,
            adam_b2=self.b2,
            adam_weight_decay=self.weight_decay,
            consistent_rms=self.rms,
        )

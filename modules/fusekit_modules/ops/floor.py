"""The least that an operation must do."""

from typing import NamedTuple

from jax.experimental import pallas as pl


class Floor(NamedTuple):
    """Operations of the products, bytes of arrays that must be read or written, and how many
    exponentials are taken."""

    flops: int
    bytes: int
    exponentials: int = 0

    def estimate(self) -> pl.CostEstimate:
        """What XLA is told of a kernel, whose inside it does not see."""
        return pl.CostEstimate(
            flops=self.flops, bytes_accessed=self.bytes, transcendentals=self.exponentials
        )

    def seconds(self, flop_rate: float, byte_rate: float) -> float:
        """The longer of computing at `flop_rate` and moving at `byte_rate`, both a second."""
        return max(self.flops / flop_rate, self.bytes / byte_rate)

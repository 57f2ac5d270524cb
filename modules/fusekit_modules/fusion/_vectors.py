"""The common ground of fusions that turn several vectors into one."""

from typing import ClassVar

from flax import nnx
from pydantic import Field

from fusekit.component import FusionSpec, Outputs, Signatures, Width
from fusekit.stream import vector
from fusekit_modules.layers.expect import expect_count, expect_vector
from fusekit_modules.layers.linear import Linear


class VectorFusionSpec(FusionSpec):
    """Takes vectors of any widths and gives one; present where at least one input is."""

    least: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    def out_width(self, inputs: Signatures) -> int:
        raise NotImplementedError

    def infer(self, inputs: Signatures) -> Outputs:
        """One vector. Raises `WiringError` for too few or many inputs, or what is no vector."""
        expect_count(inputs, least=self.least, most=self.most)
        for role, signature in inputs.items():
            expect_vector(signature, role)
        optional = all(signature.optional for signature in inputs.values())
        return vector(self.out_width(inputs), optional=optional)


class WidthFusionSpec(VectorFusionSpec):
    """A fusion of vectors whose output width is chosen."""

    width: Width | None = Field(None, description="output width; default the least input width")

    def out_width(self, inputs: Signatures) -> int:
        return self.width or min(signature.width for signature in inputs.values())


def projections(inputs: Signatures, width: int, *, rngs: nnx.Rngs) -> nnx.List[Linear]:
    """One affine map for each input, to a common width."""
    axes = ("embed", "features")
    widths = [signature.width for signature in inputs.values()]
    return nnx.List([Linear(given, width, axes=axes, rngs=rngs) for given in widths])

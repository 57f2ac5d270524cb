"""Regression for each token."""

from typing import Any, Literal

from pydantic import Field

from fusekit.component import Width, register
from fusekit_modules.heads._readout import TokenReadoutSpec


@register
class TokenRegressorSpec(TokenReadoutSpec):
    """Real numbers for each token: a sequence `[time, width]`, such as a flow's velocity.

    Learned readout tokens get none.
    """

    type: Literal["token_regressor"] = "token_regressor"
    width: Width = Field(1, description="how many numbers a token")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "x"}, {"input": "x", "width": 4, "init": "zeros"}]

    def out_width(self) -> int:
        return self.width

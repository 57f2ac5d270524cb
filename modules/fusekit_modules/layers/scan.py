"""What layers that scan over time can be told."""

from pydantic import Field

from fusekit.component import Count
from fusekit.config.base import Declared
from fusekit_modules.layers.begins import Resets


class ScanSettings(Declared):
    """Of the layers of a stack that scan over time."""

    states: Count | None = Field(
        default=None,
        description="numbers that each channel carries: N; default 64 of ssd, 16 of selective",
    )
    expand: Count = Field(
        default=2, description="heads of the scan, by those of attention; channels, by the width"
    )
    groups: Count = Field(
        default=1, description="how many heads' groups have a B and a C of their own; of ssd"
    )
    rank: Count | None = Field(
        default=None,
        description="of the projection to dt; of selective; default a sixteenth of the width",
    )
    kernel: Count = Field(default=4, description="tokens that the short convolution reads")
    resets: Resets | None = Field(
        default=None,
        description="where states begin anew: segment, label or item; default segment, where items "
        "need not be told apart",
    )

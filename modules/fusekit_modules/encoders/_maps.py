"""What convolutional encoders of images share: which grids they take, and sizes after a stride."""

from fusekit.errors import WiringError
from fusekit.stream import Signature
from fusekit_modules.layers.entry import spans_of


def check_map(given: Signature, *, frames: bool = False) -> Signature:
    """The signature, if it is of an image or a spectrogram, with or without channels; or with
    `frames` of a video. Raises `WiringError`."""
    axes = (2, 3, 4) if frames else (2, 3)
    if given.kind != "grid" or given.dtype != "float" or len(given.sizes) not in axes:
        raise WiringError(
            f"a {given.kind} where an image{', a video' if frames else ''} or a spectrogram is due",
            found=given,
            expected="two axes and channels" + (", or frames of them" if frames else ""),
            field=("input",),
        )
    return given


def check_odd(size: int, field: str) -> None:
    """Raises `WiringError` for a kernel without a centre."""
    if size % 2 == 0:
        raise WiringError("a kernel without a centre", found=size, expected="odd", field=(field,))


def check_groups(groups: int, widths: tuple[int, ...]) -> None:
    """Raises `WiringError` unless the groups of a norm divide each width."""
    for width in widths:
        if width % groups:
            raise WiringError(
                "the groups do not divide the width",
                found=f"{groups} groups, width {width}",
                expected=f"a divisor of {width}",
                field=("groups",),
            )


def scaled(grid: Signature, stride: int, width: int) -> Signature:
    """Height and width divided by the stride, rounded up, and other channels."""
    first = 1 if len(grid.sizes) == 4 else 0
    kept, shrunk = grid.sizes[:first], grid.sizes[first : first + 2]
    sizes = (*kept, *((axis, -(-size // stride)) for axis, size in shrunk))
    spans = spans_of(grid, sizes[0][1]) if grid.spans else ()
    return grid.with_(sizes=(*sizes, ("channel", width)), spans=spans, grid=())

"""What the projections of a stack's layers are called and how large they are, for weight deltas."""

from collections.abc import Sequence

from fusekit.errors import WiringError, nearest
from fusekit.stream import Signature

Sizes = dict[str, tuple[int, int]]
"""Inputs and outputs of projections, by the names that `Edit.weights` has for them."""

AXES = {
    "attention.query": ("embed", "heads"),
    "attention.key": ("embed", "heads"),
    "attention.value": ("embed", "heads"),
    "attention.out": ("heads", "embed"),
    "mlp.up": ("embed", "mlp"),
    "mlp.down": ("mlp", "embed"),
    **{f"ssd.{name}": ("embed", "heads") for name in ("x", "z", "dt")},
    **{f"ssd.{name}": ("embed", None) for name in ("b", "c")},
    "ssd.out": ("heads", "embed"),
    **{f"selective.{name}": ("embed", "heads") for name in ("x", "z")},
    "selective.select": ("heads", None),
    "selective.dt": (None, "heads"),
    "selective.out": ("heads", "embed"),
}
"""Logical axes (in, out) of the projections of blocks, heads and their size as one."""


def role_of(name: str) -> str:
    """What configs call a projection: `feed_forward.up` for `mlp.up`."""
    return name.replace("mlp", "feed_forward", 1) if name.startswith("mlp") else name


def targeted(targets: Sequence[str], stream: Signature, place: str) -> Sizes:
    """The projections that `targets` name: one, such as `attention.query`, or all of a sublayer.

    Raises `WiringError` at `targets` if the layers that the stream is about to enter have none.
    """
    sizes = dict(stream.projections)
    if not sizes:
        raise WiringError(
            f"the layers of {place} do not tell what they project",
            expected="a stack such as a transformer",
            field=("into",),
        )
    roles = {role_of(name): name for name in sizes}
    groups = dict.fromkeys(role.split(".")[0] for role in roles)
    found: list[str] = []
    for number, target in enumerate(targets):
        named = [name for role, name in roles.items() if target in (role, role.split(".")[0])]
        if not named:
            raise WiringError(
                f"layers of {place} have no such projection",
                found=target,
                expected=", ".join([*groups, *roles]),
                field=("targets", number),
                nearest=nearest(target, [*groups, *roles]),
            )
        found += named
    return {name: sizes[name] for name in sizes if name in found}

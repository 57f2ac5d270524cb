"""Several operators' edits of one layer, merged into one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fusekit.errors import FusekitError
from fusekit.layered import Branch, Edits, KeyValue, LowRank, MaskRule, NormDelta
from fusekit.stream import Stream
from fusekit_modules.layers.projections import AXES

NORMS = ("attention_norm", "mlp_norm")
SUBLAYERS = ("attention", "mlp", "norm", *NORMS)
PROJECTIONS = tuple(AXES)

Labels = tuple[str, ...] | None
"""Labels of tokens; `None` stands for all tokens."""


@dataclass(frozen=True)
class Merged:
    """What all operators together want of a layer.

    Args:
      tokens: extra tokens, one entry an edit that brings some.
      skip: by sublayer, the labels that do not take it; `None` for all tokens.
    """

    stream: Stream | None = None
    tokens: tuple[Stream, ...] = ()
    keys_values: tuple[Stream | KeyValue, ...] = ()
    masks: tuple[MaskRule, ...] = ()
    norm: Mapping[str, list[NormDelta]] = field(default_factory=dict)
    replace: Mapping[str, Branch] = field(default_factory=dict)
    skip: Mapping[str, Labels] = field(default_factory=dict)
    residual: Mapping[str, list[Branch]] = field(default_factory=dict)
    then: Mapping[str, list[Branch]] = field(default_factory=dict)
    weights: Mapping[str, list[LowRank]] = field(default_factory=dict)

    def deltas(self, sublayer: str) -> dict[str, list[LowRank]]:
        """Weight deltas of a sublayer's projections, by the projection's own name."""
        prefix = f"{sublayer}."
        return {n[len(prefix) :]: d for n, d in self.weights.items() if n.startswith(prefix)}


def merge(edits: Edits) -> Merged:
    """Masks intersect, deltas and branches add, skips unite; the last `stream` counts.

    Keys of `replace`, `skip` and `residual` are `attention`, `mlp`, `norm` (both norms of a
    layer), `attention_norm` and `mlp_norm`; of `norm` and `then` the first two. Raises
    `FusekitError` for other keys, and where two operators claim one sublayer.
    """
    norm: dict[str, list[NormDelta]] = {}
    replace: dict[str, Branch] = {}
    skip: dict[str, Labels] = {}
    residual: dict[str, list[Branch]] = {}
    then: dict[str, list[Branch]] = {}
    weights: dict[str, list[LowRank]] = {}
    stream = None
    for edit in edits.all:
        stream = stream if edit.stream is None else edit.stream
        for name, delta in edit.norm.items():
            norm.setdefault(_known(name, ("attention", "mlp")), []).append(delta)
        for name, branch in _spread(edit.replace):
            if name in replace:
                raise FusekitError(f"two operators replace the same {name.replace('_', ' ')}")
            replace[name] = branch
        for name, labels in _spread(edit.skip):
            before = skip.get(name, ())
            skip[name] = None if labels is None or before is None else (*before, *labels)
        for name, branch in _spread(edit.residual):
            residual.setdefault(name, []).append(branch)
        for name, branch in edit.then.items():
            then.setdefault(_known(name, ("attention", "mlp")), []).append(branch)
        for name, low_rank in edit.weights.items():
            weights.setdefault(_known(name, PROJECTIONS), []).append(low_rank)
    return Merged(
        stream=stream,
        tokens=tuple(edits.of("tokens")),
        keys_values=tuple(edits.of("keys_values")),
        masks=tuple(edits.of("mask")),
        norm=norm,
        replace=replace,
        skip=skip,
        residual=residual,
        then=then,
        weights=weights,
    )


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise FusekitError(f"a layer has no {name!r}: it has {', '.join(names)}")
    return name


def _spread(hooks: Mapping) -> list[tuple]:
    """Entries by sublayer; an entry for `norm` becomes one for each norm."""
    out = []
    for name, entry in hooks.items():
        _known(name, SUBLAYERS)
        out += [(each, entry) for each in (NORMS if name == "norm" else (name,))]
    return out


def refuse(edits: Edits, what: str) -> None:
    """Raises `FusekitError` if operators want anything of a layer that has no hooks."""
    wanted = sorted({hook for edit in edits.all for hook in edit.hooks()})
    if wanted:
        raise FusekitError(f"{what} has no hooks, but an operator asks for {', '.join(wanted)}")

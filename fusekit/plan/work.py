"""What a traced step does, told apart by what a layout cuts: rows, and axes over `tensor`.

Rows are traced as a prime number that no width is a multiple of, so that an array's size tells
whether it has rows. Which axes `tensor` cuts follows from the parameters: through a product an axis
that is not contracted stays cut, and one that is leaves every device a part of a sum, which is
summed over `tensor` once it meets something that is no sum itself. This is what the partitioner
does with the same step.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from fusekit.jaxprs import inner_jaxprs
from fusekit.report.flops import own, owner_of

ROWS = 10007
"""Prime."""
SUMMABLE = frozenset({"add", "add_any", "sub", "neg", "reshape", "transpose"})
"""What may be done to parts of a sum before they are summed."""
LANES = 28
"""Operations that an element costs in a sum along the last axis, which goes across lanes: log2(128)
steps of a unit that does one where that for elements does four."""
ERF = 50
"""Operations of an error function, which is a ratio of polynomials of degrees 13 and 8."""
PRODUCTS = ("dot_general", "conv_general_dilated")


class Kind(NamedTuple):
    """Of an array: whether it has rows, and whether `tensor` cuts it."""

    rows: bool
    split: bool


class Product(NamedTuple):
    """A product: FLOPs of a step, whether rows or `tensor` cut them, bytes in and out, and of what
    comes out the kind and bytes."""

    flops: float
    cut: Kind
    bytes: dict[Kind, float]
    out: tuple[Kind, float]


class Tag(NamedTuple):
    """The axes of an array that `tensor` cuts, and whether it is a part of a sum over `tensor`."""

    split: frozenset[int] = frozenset()
    part: bool = False


WHOLE = Tag()


@dataclass
class Work:
    """Of a step with `batch` rows.

    Args:
      batch: rows.
      flops_of: of all operations, by node.
      products: all of them.
      vector: operations on elements, outside of products.
      summed: bytes that `tensor` sums, by whether they have rows.
      turn: bytes that the products of one turn of a loop make, of the loop that makes most: what a
        layer holds while it runs.
    """

    batch: int
    flops_of: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    products: list[Product] = field(default_factory=list)
    vector: defaultdict[Kind, float] = field(default_factory=lambda: defaultdict(float))
    summed: defaultdict[bool, float] = field(default_factory=lambda: defaultdict(float))
    turn: dict[Kind, float] = field(default_factory=dict)

    def scale(self, size: int) -> float:
        """From the rows that are traced to those of a step."""
        factor = 1.0
        while size and size % ROWS == 0:
            size, factor = size // ROWS, factor * self.batch / ROWS
        return factor

    def kind(self, aval: Any, tag: Tag) -> Kind:
        return Kind(prod(getattr(aval, "shape", ())) % ROWS == 0, bool(tag.split))

    def bytes(self, aval: Any) -> float:
        size, dtype = prod(getattr(aval, "shape", ())), getattr(aval, "dtype", None)
        return size * self.scale(size) * getattr(dtype, "itemsize", 0)

    def made(self) -> dict[Kind, float]:
        """Bytes that products make."""
        found: defaultdict[Kind, float] = defaultdict(float)
        for one in self.products:
            kind, size = one.out
            found[kind] += size
        return found

    def walk(
        self, jaxpr: Any, tags: Sequence[Tag], times: float = 1.0, name: str = ""
    ) -> list[Tag]:
        """Adds up what a jaxpr does so many times; gives the tags of what it gives."""
        known: dict[int, Tag] = {id(v): t for v, t in zip(jaxpr.invars, tags, strict=True)}
        for equation in jaxpr.eqns:
            given = [known.get(id(var), WHOLE) for var in equation.invars]
            parts = [n for n, tag in enumerate(given) if tag.part]
            loose = equation.primitive.name in SUMMABLE and len(parts) == len(given)
            if parts and not loose and not (inner_of(equation) and not _loops(equation)):
                for n in parts:
                    var = equation.invars[n]
                    rows = self.kind(var.aval, WHOLE).rows
                    self.summed[rows] += times * self.bytes(var.aval)
                    known[id(var)] = given[n] = Tag(given[n].split)
            found = self._equation(equation, given, times, owner_of(equation, name))
            known.update({id(v): t for v, t in zip(equation.outvars, found, strict=True)})
        return [known.get(id(var), WHOLE) for var in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Tag], times: float, name: str) -> list[Tag]:
        inner = inner_of(equation)
        if equation.primitive.name == "optimization_barrier":
            return given
        if inner is None:
            found = _follow(equation, given)
            self._count(equation, given, found, times, name)
            return [found if _alike(var, equation) else WHOLE for var in equation.outvars]
        if equation.primitive.name == "scan":
            return self._scan(equation, inner, given, times, name)
        if equation.primitive.name == "cond":
            given = given[1:]
        if len(inner.invars) != len(given) or len(inner.outvars) != len(equation.outvars):
            self.walk(inner, [WHOLE] * len(inner.invars), times, name)
            return [WHOLE] * len(equation.outvars)
        return self.walk(inner, given, times, name)

    def _scan(
        self, equation: Any, inner: Any, given: list[Tag], times: float, name: str
    ) -> list[Tag]:
        consts, carries = _carried(equation, inner)
        xs = [Tag(frozenset(n - 1 for n in tag.split)) for tag in given[consts + carries :]]
        start = [Tag(tag.split) for tag in given[: consts + carries]]
        once = Work(self.batch)
        turned = once.walk(inner, [*start, *xs])[:carries]
        self.turn = max(self.turn, once.made(), key=lambda made: sum(made.values()))
        carried = [Tag(a.split | b.split) for a, b in zip(start[consts:], turned, strict=True)]
        turns = times * equation.params["length"]
        found = self.walk(inner, [*start[:consts], *carried, *xs], turns, name)
        ys = [Tag(frozenset(n + 1 for n in tag.split)) for tag in found[carries:]]
        return [*carried, *ys]

    def _count(self, equation: Any, given: list[Tag], found: Tag, times: float, name: str) -> None:
        flops = own(equation) * times
        self.flops_of[name] += flops * self.scale(own(equation))
        if equation.primitive.name not in PRODUCTS:
            self._elements(equation, given, found, flops)
            return
        moved: defaultdict[Kind, float] = defaultdict(float)
        arrays = [*zip(equation.invars, given, strict=True), (equation.outvars[0], found)]
        for var, tag in arrays:
            moved[self.kind(var.aval, tag)] += times * self.bytes(var.aval)
        cut = Kind(any(kind.rows for kind in moved), any(tag.split for _, tag in arrays))
        out = equation.outvars[0].aval
        made = self.kind(out, found), times * self.bytes(out)
        flops *= self.scale(own(equation))
        self.products.append(Product(flops, cut, dict(moved), made))

    def _elements(self, equation: Any, given: list[Tag], found: Tag, count: float) -> None:
        """Operations on elements: of the larger of what goes in and what comes out."""
        name, var, tag = equation.primitive.name, equation.outvars[0], found
        if name.startswith("reduce_"):
            var, tag = equation.invars[0], given[0]
            count *= LANES if _across_lanes(equation) else 1
        count *= ERF if name in ("erf", "erf_inv", "erfc") else 1
        size = prod(getattr(var.aval, "shape", ()))
        self.vector[self.kind(var.aval, tag)] += count * self.scale(size)


def _across_lanes(equation: Any) -> bool:
    """Whether an equation reduces the last axis."""
    axes = equation.params.get("axes", ())
    return len(getattr(equation.invars[0].aval, "shape", ())) - 1 in axes


def inner_of(equation: Any) -> Any:
    """The jaxpr that an equation runs; of a `cond` the first; `None` if it runs none."""
    return next(inner_jaxprs(equation.params), None)


def _carried(equation: Any, inner: Any) -> tuple[int, int]:
    """How many constants and carries a scan has: what it runs over and what it stacks has an axis
    more outside than inside. Names of its parameters differ between versions of jax."""

    def same(outer: Any, inside: Any) -> int:
        return sum(
            len(a.aval.shape) == len(b.aval.shape) for a, b in zip(outer, inside, strict=True)
        )

    carries = same(equation.outvars, inner.outvars)
    return same(equation.invars, inner.invars) - carries, carries


def _alike(var: Any, equation: Any) -> bool:
    """Whether a result has as many axes as the first."""
    first = equation.outvars[0]
    return len(getattr(var.aval, "shape", ())) == len(getattr(first.aval, "shape", ()))


def _loops(equation: Any) -> bool:
    return equation.primitive.name in ("scan", "while", "cond")


def _follow(equation: Any, given: list[Tag]) -> Tag:
    """The tag of what an equation gives."""
    params, out = equation.params, equation.outvars[0].aval
    shape, first = getattr(out, "shape", ()), given[0] if given else WHOLE
    match equation.primitive.name:
        case "dot_general":
            return _product(equation, *given)
        case "broadcast_in_dim":
            return Tag(frozenset(params["broadcast_dimensions"][n] for n in first.split))
        case "transpose":
            places = {old: new for new, old in enumerate(params["permutation"])}
            return Tag(frozenset(places[n] for n in first.split), first.part)
        case "reshape" if first.split:
            return Tag(_reshaped(equation.invars[0].aval.shape, shape, first.split))
        case "squeeze":
            return Tag(_without(first.split, params["dimensions"]))
        case _ if "axes" in params:
            return Tag(_without(first.split, params["axes"]))
    split: frozenset[int] = frozenset()
    for var, tag in zip(equation.invars, given, strict=True):
        if len(getattr(var.aval, "shape", ())) == len(shape):
            split |= tag.split
    return Tag(split, bool(given) and all(tag.part for tag in given))


def _product(equation: Any, left: Tag, right: Tag) -> Tag:
    (of_left, of_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    free = [
        (tag, [n for n in range(len(var.aval.shape)) if n not in (*contracted, *batch)])
        for var, tag, contracted, batch in zip(
            equation.invars,
            (left, right),
            (of_left, of_right),
            (batch_left, batch_right),
            strict=True,
        )
    ]
    cut = [
        a in left.split or b in right.split for a, b in zip(batch_left, batch_right, strict=True)
    ]
    for tag, axes in free:
        cut += [n in tag.split for n in axes]
    split = frozenset(n for n, one in enumerate(cut) if one)
    part = bool(left.split & {*of_left} or right.split & {*of_right})
    return Tag(split, part and not split)


def _reshaped(old: Sequence[int], new: Sequence[int], split: frozenset[int]) -> frozenset[int]:
    """Where cut axes are after a reshape: of those that an axis becomes, the first."""
    found, i, j = set(), 0, 0
    while i < len(old):
        begin, first = i, j
        a, b = old[i], new[j] if j < len(new) else 1
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        if any(n in split for n in range(begin, i)):
            found.add(next((n for n in range(first, j) if new[n] > 1), first))
    return frozenset(found)


def _without(split: frozenset[int], gone: Sequence[int]) -> frozenset[int]:
    return frozenset(n - sum(g < n for g in gone) for n in split if n not in gone)

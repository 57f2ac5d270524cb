"""A plan as text: what fits, how long, and what of the model costs it."""

from collections.abc import Iterable, Iterator, Mapping

from fusekit.chosen import rows
from fusekit.plan.compiled import Axes
from fusekit.plan.plan import Plan, Priced
from fusekit.plan.search import Found
from fusekit.plan.times import limit, utilisation
from fusekit.report.columns import columns
from fusekit.report.numbers import short

GIB = 2**30
REST = "optimiser and rest"
HOW = {
    "compiled": "the real compiler, whole program",
    "extrapolated": "the real compiler, from short forms of the program",
    "analytic": "formulas, no compiler",
}


def render(plan: Plan) -> str:
    """The whole plan. Every figure is an estimate; nothing was run."""
    mesh = _mesh(plan.sizes)
    lines = [
        f"{plan.topology}, mesh {mesh}, {plan.batch} rows a step: estimates, nothing was run",
        f"by {HOW[plan.chosen.how]}; layers: {plan.chosen.layers}",
        "",
        *_step(plan, plan.chosen),
    ]
    if plan.other is not None:
        lines += ["", f"layers: {plan.other.layers} instead ({HOW[plan.other.how]})"]
        lines += _step(plan, plan.other, brief=True)
    lines += ["", *_components(plan), "", *_modalities(plan)]
    if plan.kernels:
        lines += ["", *columns(rows(plan.kernels))]
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines) + "\n"


def _mesh(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "of one"


def _step(plan: Plan, one: Priced, *, brief: bool = False) -> Iterator[str]:
    cost, took, topology = one.cost, one.times, plan.topology
    room = limit(topology)
    word = "fits" if one.fits else "DOES NOT FIT"
    yield f"  memory      {word}: {_gib(cost.peak)} of {_gib(room)} a device" + (
        f", {1 - cost.peak / room:.0%} left; state {_gib(cost.state)}" if one.fits else ""
    )
    if not one.fits and not cost.flops:
        return
    most, least = (utilisation(cost, t, topology) for t in (took.shortest, took.longest))
    yield f"  step        {_ms(took.shortest)} to {_ms(took.longest)}, bound by {took.bound}"
    yield f"  MFU         {least:.0%} to {most:.0%}"
    if brief:
        return
    yield (
        f"  compute     {_ms(took.compute)}: {short(cost.flops)} FLOPs, "
        f"{short(cost.hbm)}B of HBM traffic a device"
    )
    yield f"  links       ICI {_ms(took.ici)}{_bytes(cost.ici)}"
    if topology.slices > 1:
        yield f"              DCN {_ms(took.dcn)}{_bytes(cost.dcn)}"
    yield f"  found in    {cost.seconds:.0f} s"


def _bytes(sent: Mapping[Axes, float]) -> str:
    shown = [f"{' x '.join(axes) or 'all'} {short(size)}B" for axes, size in sent.items()]
    return f": {', '.join(shown)}" if shown else ""


def _components(plan: Plan) -> Iterable[str]:
    """FLOPs and time by component, as shares."""
    cost = plan.chosen.cost
    rows = [("component", "FLOPs", "share", "time")]
    names = sorted({*cost.flops_of, *cost.cycles_of}, key=lambda n: -cost.flops_of.get(n, 0.0))
    for name in names:
        flops, cycles = cost.flops_of.get(name, 0.0), cost.cycles_of.get(name, 0.0)
        if not flops and not cycles:
            continue
        share = f"{flops / cost.flops:.1%}" if cost.flops else ""
        time = f"{cycles / cost.cycles:.1%}" if cost.cycles else ""
        rows.append((name.removeprefix("batch.") or REST, short(flops), share, time))
    return _table(rows)


def _modalities(plan: Plan) -> Iterable[str]:
    """FLOPs of the traced step by modality, and what it is without each optional one."""
    rows = [("modality", "FLOPs of all", "share", "without it")]
    for name, flops in plan.modalities.items():
        less = plan.without.get(name)
        saved = "" if less is None else f"{less / plan.flops - 1:+.1%}"
        rows.append((name, short(flops), f"{flops / plan.flops:.1%}", saved))
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        first, *rest = (
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join([first, *rest]).rstrip()


def render_search(found: Found) -> str:
    """What a search came to, and why."""
    rows = [("layout", "by formulas", "compiled", "memory", "")]
    for one in found.tried or (found.best,):
        if one is None:
            continue
        word, span, peak = "the choice" if one is found.best else "", "", one.cost.peak
        if one.compiled is not None:
            cost, took = one.compiled.cost, one.compiled.times
            word, peak = word if one.compiled.fits else "does not fit", cost.peak
            span = f"{_ms(took.shortest)} to {_ms(took.longest)}" if one.compiled.fits else ""
        rows.append((str(one), _ms(one.seconds), span, _gib(peak), word))
    lines = [f"compiled {len(found.tried)}, priced {len(found.rest)} more by formulas:"]
    lines += _table(rows)
    if found.best is None:
        lines.append("none of these fits: try a larger topology or a smaller batch")
    elif found.rest:
        best = found.rest[0]
        lines.append(f"the next by formulas, not compiled: {best} ({_ms(best.seconds)})")
    return "\n".join([*lines, *found.why]) + "\n"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"

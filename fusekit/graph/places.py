"""Where operators act: `into` becomes lockstep pairs of layers, and claims are compared."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from fusekit.component import NodeSpec, OperatorSpec, StackSpec
from fusekit.config.reference import INPUT, Place, PointError, layers_of
from fusekit.errors import Problem, nearest
from fusekit.graph.node import Node, ResolvedPlace


def operators(nodes: dict[str, Node]) -> Iterator[tuple[Node, OperatorSpec, tuple[Place, ...]]]:
    """The declared nodes that edit streams, with their specs and what they name as `into`."""
    for node in nodes.values():
        if isinstance(node.spec, OperatorSpec) and node.spec.into and node.repeat is None:
            yield node, node.spec, node.spec.into


def edits_nothing(spec: NodeSpec) -> bool:
    """Whether an operator has no places, and makes no new stream without them."""
    operator = isinstance(spec, OperatorSpec) and not spec.into
    return operator and type(spec).infer is OperatorSpec.infer


def place(nodes: dict[str, Node]) -> Iterator[Problem]:
    """Gives every operator its places; those whose places do not exist are marked as broken."""
    for node in nodes.values():
        if edits_nothing(node.spec) and node.repeat is None:
            node.broken = True
            yield Problem(
                (*node.path, "into"),
                f"{node.spec.type} edits streams in place, and has no `into`",
                expected="into: the layers that it edits, such as image@3..",
            )
    for node, spec, into in operators(nodes):
        columns: list[tuple[int, ...]] = []
        problems: list[Problem] = []
        for number, one in enumerate(into):
            stack = nodes.get(one.stack)
            found = _column(spec, one, stack, nodes)
            if isinstance(found, Problem):
                problems.append(found.under(*node.path, "into", number))
            else:
                columns.append(found)
        if not problems:
            problems = [p.under(*node.path) for p in _lockstep(into, columns)]
        yield from problems
        node.broken = bool(problems)
        if not problems:
            stacks = [one.stack for one in into]
            node.places = tuple(
                ResolvedPlace(tuple(zip(stacks, layers, strict=True)))
                for layers in zip(*columns, strict=True)
            )
    yield from _claimed_twice(nodes)


def _column(
    spec: OperatorSpec, one: Place, stack: Node | None, nodes: dict[str, Node]
) -> tuple[int, ...] | Problem:
    """The layers of one stack, or what is wrong with the place."""
    stacks = [name for name, other in nodes.items() if isinstance(other.spec, StackSpec)]
    if stack is None or not isinstance(stack.spec, StackSpec):
        what = f"{one.stack} ({stack.spec.type}) has no layers" if stack else ""
        return Problem(
            (),
            what or f"no encoder is called {one.stack}",
            found=str(one),
            expected=f"a place in one of {', '.join(stacks)}" if stacks else "an encoder's layers",
            nearest=nearest(one.stack, stacks),
        )
    count = stack.spec.layers()
    try:
        layers = layers_of(one.point, count)
    except PointError as error:
        message = str(error).replace("the stack", one.stack)
        return Problem((), message, str(one), layers_there(one.stack, count, error))
    if missing := spec.needs - stack.spec.hooks:
        return Problem(
            (),
            f"{spec.type} needs the hook {', '.join(sorted(missing))}, which layers of "
            f"{one.stack} ({stack.spec.type}) do not have",
            found=f"{one} ({', '.join(sorted(stack.spec.hooks)) or 'no hooks'})",
            expected="a stack with that hook, such as a transformer",
        )
    if layers == (INPUT,) and spec.needs:
        return Problem(
            (),
            f"{spec.type} acts within layers, and at @input there is none yet",
            found=str(one),
            expected=f"layers, such as {one.stack}@0..",
        )
    return _unhooked(spec, one, stack.spec, layers) or layers


def _unhooked(
    spec: OperatorSpec, one: Place, stack: StackSpec, layers: Sequence[int]
) -> Problem | None:
    """What is wrong with a place of which some layers lack a hook that others have."""
    without = {k: spec.needs - stack.layer_hooks(k) for k in layers if k != INPUT}
    faults = {k: missing for k, missing in without.items() if missing}
    if not faults:
        return None
    first, missing = next(iter(faults.items()))
    fit = [k for k in range(stack.layers()) if spec.needs <= stack.layer_hooks(k)]
    return Problem(
        (),
        f"{spec.type} needs the hook {', '.join(sorted(missing))}, which layer {first} of "
        f"{one.stack} ({stack.layer_kind(first)}) does not have",
        found=f"{one} ({', '.join(sorted(stack.layer_hooks(first)))})",
        expected=f"layers that have it: {one.stack}@{'+'.join(map(str, fit))}"
        if fit
        else "a stack with layers that have it",
    )


def layers_there(stack: str, count: int, error: PointError | None = None) -> str:
    """The layers that a place or point may name, as text, where the error is of one of them."""
    if error is not None and "exist" not in str(error):
        return ""
    last = f" to {stack}@{count - 1}" if count > 1 else ""
    return f"{stack}@0{last}; from the end, {stack}@-1" + (f" to @-{count}" if count > 1 else "")


def _lockstep(into: Sequence[Place], columns: list[tuple[int, ...]]) -> Iterator[Problem]:
    """All places have the same number of layers, each in another stack."""
    if len({len(layers) for layers in columns}) > 1:
        pairs = zip(into, columns, strict=True)
        yield Problem(
            ("into",),
            "the places of an operator have the same number of layers",
            found=", ".join(f"{len(layers)} in {place}" for place, layers in pairs),
            expected="as many layers of each stack",
        )
    elif len({layers == (INPUT,) for layers in columns}) > 1:
        yield Problem(
            ("into",),
            "an operator acts at the input of all its stacks, or at layers of all",
            found=", ".join(map(str, into)),
            expected="@input everywhere, or nowhere",
        )
    stacks = [place.stack for place in into]
    for number, stack in enumerate(stacks):
        if stack in stacks[:number]:
            yield Problem(
                ("into", number),
                f"{stack} stands in two places of one operator",
                found=f"{into[stacks.index(stack)]} and {into[number]}",
                expected=f"one place, such as {stack}@0.. or {stack}@0+2, or two operators",
            )


def _claimed_twice(nodes: dict[str, Node]) -> Iterator[Problem]:
    """A sublayer is replaced by one operator at most, whatever the labels of its tokens."""
    claims = [(node, spec) for node, spec, _ in operators(nodes) if spec.replaces and node.places]
    for (first, one), (second, other) in combinations(claims, 2):
        both = one.replaces & other.replaces
        taken = {where for place in first.places for where in place.stacks}
        for number in range(len(second.places[0].stacks)) if both else ():
            column = [place.stacks[number] for place in second.places]
            shared = [str(layer) for where in column if where in taken for layer in where[1:]]
            if shared:
                sublayers = " and ".join(sorted(both))
                yield Problem(
                    (*second.path, "into", number),
                    f"{first.name} and {second.name} both replace the {sublayers} of "
                    f"{column[0][0]}@{'+'.join(shared)}",
                    found=f"{first.name} ({one.type}) and {second.name} ({other.type})",
                    expected="one operator a sublayer: give them different layers",
                )

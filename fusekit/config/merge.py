"""How one config changes another: deep merge, lists replaced whole, null deletes an entry.

Where the `type` of a component changes, only `input`, `inputs` and `into` survive, as far as the
new type has them. If it has no `into`, the stacks that `into` named join `inputs`.
"""

from fusekit.config.reference import parse_place
from fusekit.config.registry import components
from fusekit.config.sections import EXCLUSIVE, null_is_a_value, slot_at
from fusekit.config.tree import Node, Path

SURVIVORS = ("input", "inputs", "into")


def merge(base: Node, over: Node, path: Path = ()) -> Node:
    """`over` on top of `base`; neither is changed. Values keep the positions they came with."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    fields = _kept(base, over, path)
    for name, child in over.fields.items():
        if child.value is None and name in fields and not null_is_a_value((*path, name)):
            del fields[name]
        elif name in fields:
            fields[name] = merge(fields[name], child, (*path, name))
        else:
            fields[name] = child
    return Node(fields, over.position or base.position, over.key or base.key)


def _kept(base: Node, over: Node, path: Path) -> dict[str, Node]:
    """The fields of `base` that `over` does not take away."""
    fields = dict(base.fields)
    for section, names in EXCLUSIVE:
        if path == (section,) and any(_given(over, name) for name in names):
            fields = {name: node for name, node in fields.items() if name not in names}
    before, after = _type(base), _type(over)
    if before is not None and after is not None and before != after:
        return _survivors(fields, after, slot_at(path))
    return fields


def _given(node: Node, name: str) -> bool:
    return name in node.fields and node.fields[name].value is not None


def _type(node: Node) -> str | None:
    child = node.fields.get("type")
    return child.value if child is not None and isinstance(child.value, str) else None


def _survivors(fields: dict[str, Node], new: str, slot: str | None) -> dict[str, Node]:
    kept = {name: node for name, node in fields.items() if name in SURVIVORS}
    component = components(slot).get(new) if slot else None
    if component is None:
        return kept
    has = component.model_fields
    if "into" in kept and "into" not in has and "inputs" in has:
        kept["inputs"] = _joined(kept.get("inputs"), kept["into"])
    return {name: node for name, node in kept.items() if name in has}


def _joined(inputs: Node | None, into: Node) -> Node:
    """`inputs` and, after them, the stacks that `into` names, each once."""
    stacks: dict[str, Node] = {}
    for place in into.items or [into]:
        if not isinstance(place.value, str):
            continue
        try:
            stack = parse_place(place.value).stack
        except ValueError:
            stack = place.value.split("@")[0]
        stacks.setdefault(stack, Node(stack, place.position))
    if inputs is not None and isinstance(inputs.value, dict):
        named = [child.value for child in inputs.fields.values()]
        more = {name: node for name, node in stacks.items() if name not in named}
        for node in more.values():
            node.key = node.position
        return Node({**more, **inputs.fields}, inputs.position, inputs.key)
    first = inputs.items if inputs is not None else []
    named = [child.value for child in first]
    more = [node for name, node in stacks.items() if name not in named]
    origin = inputs or into
    return Node([*first, *more], origin.position, origin.key)

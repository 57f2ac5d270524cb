"""A field that holds a component: `Annotated[OptimizerSpec, OneOf("optimizer")]`.

The set of types is looked up in the registry whenever a value is validated or a schema is made,
so components may register at any time, and only the one type that was named is tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fusekit.config.registry import SLOTS, components
from fusekit.config.sections import ENTRY, LATER, later
from fusekit.errors import Problem, nearest

if TYPE_CHECKING:
    from fusekit.component import Component

CARRIER = "fusekit_problems"
"""Type of the pydantic error by which problems travel through pydantic."""

SLOT_KEY = "x-fusekit-slot"
"""Stands in a JSON Schema for a component of a slot; `fusekit.config.schema` fills it in."""


def article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@dataclass(frozen=True)
class OneOf:
    """Marks a field as a tagged union over `type` of the components of a slot."""

    slot: str

    def words(self) -> str:
        first = next(iter(components(self.slot)), "name")
        return f"{article(self.slot)}, such as {{type: {first}, …}}"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from fusekit.config.writer import spec_fields

        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(spec_fields),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {SLOT_KEY: self.slot}

    def _validate(self, value: Any) -> "Component":
        component, problems = read(self.slot, value)
        if component is None:
            count = len(problems)
            raise PydanticCustomError(CARRIER, "{count} wrong", {"count": count, "it": problems})
        return component


def read(slot: str, value: Any) -> "tuple[Component | None, list[Problem]]":
    """A component from the mapping that declares it, or what is wrong with that."""
    from fusekit.component import Component
    from fusekit.config.validate import check

    if isinstance(value, Component):
        if value.slot == slot:
            return value, []
        message = f"{article(value.slot)} stands where {article(slot)} is due"
        return None, [Problem((), message, f"{value.type}")]
    known = components(slot)
    if not isinstance(value, Mapping):
        from fusekit.config.scalars import show

        message = f"{article(slot)} is a mapping with a `type`"
        return None, [Problem((), message, show(value), _choice(known))]
    if "type" not in value:
        close = ("type",) if any(nearest("type", [str(key)]) for key in value) else ()
        message, due = "`type` is missing", _choice(known)
        return None, [Problem((), message, expected=due, nearest=close, lacking=True)]
    name = value["type"]
    if not isinstance(name, str) or name not in known:
        return None, [_unknown(slot, name, known)]
    return check(known[name], value)


def _choice(known: Mapping[str, Any]) -> str:
    from fusekit.config.words import one_of

    return one_of(known) if known else "nothing: no type is registered"


def _unknown(slot: str, name: Any, known: Mapping[str, Any]) -> Problem:
    from fusekit.config.scalars import show

    if not isinstance(name, str):
        return Problem(("type",), "`type` is the name of a component", show(name), _choice(known))
    homes = [other for other in SLOTS if other != slot and name in components(other)]
    if name in LATER and not homes:
        return Problem(("type",), later(name), show(name), _choice(known))
    message = f"there is no {slot} of this type"
    if homes:
        message = f"`{name}` is {article(homes[0])} and not {article(slot)}"
        if homes[0] in ENTRY:
            message += f": it belongs under `{ENTRY[homes[0]]}`"
    return Problem(("type",), message, show(name), _choice(known), nearest(name, known))

"""The root of all that a config declares: frozen, closed, and with errors in fusekit's words."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fusekit.config.validate import scalars, tidy, translate
from fusekit.errors import SpecError


class Declared(BaseModel):
    """A frozen model. What is wrong with it is told in the same words whether it is built in
    Python or stands in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    partial: ClassVar[bool] = False
    """Whether what is not given is not at its default but as something else says."""

    def __init__(self, /, **fields: Any):
        """Raises `SpecError` with every problem, of what is nested too."""
        problems = list(scalars(type(self), fields))
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = [*translate(error, type(self), fields), *problems]
        if problems:
            raise SpecError(tidy(problems))

    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]
    """Tells pydantic not to call it for models within models, whose problems it gathers."""

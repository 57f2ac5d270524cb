"""What losses that wrap another declared loss share."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializeAsAny

from fusekit.component import Coupling, LossSpec, Signatures
from fusekit.config.reference import Reference
from fusekit.config.union import OneOf
from fusekit.errors import WiringError


class WrapperSpec(LossSpec):
    """A loss made of another one, whose references it reads under their own roles.

    Rows are marked by the `where` of the loss within, and the share of both is the `weight` here.
    """

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "the loss within may compare rows of the batch"

    loss: Annotated[SerializeAsAny[LossSpec], OneOf("loss")] = Field(
        description="the loss within: as it would stand in `losses`, without `weight`"
    )

    def coupling(self) -> Coupling:
        return self.loss.coupling()

    @classmethod
    def example_inputs(cls) -> list[dict[str, str]]:
        """Roles and kinds of streams that fit the examples, which the suite cannot guess."""
        return [{"m0": "vector", "m1": "vector"}]

    def references(self) -> Iterator[tuple[tuple[str | int, ...], str, Reference]]:
        for path, role, reference in self.loss.references():
            yield ("loss", *path), role, reference

    def check(self, inputs: Signatures) -> None:
        """What the loss within asks for. Raises `WiringError` otherwise."""
        if self.where is not None:
            raise WiringError(
                "rows are marked in the loss within",
                found=self.where,
                expected="where: under `loss`",
                field=("where",),
            )
        if self.loss.weight != 1:
            raise WiringError(
                "the weight of a loss within would count for nothing",
                found=self.loss.weight,
                expected="weight: beside `loss`",
                field=("loss", "weight"),
            )
        self.within(inputs)

    def within(self, inputs: Signatures) -> None:
        """Checks the loss within on inputs; its complaints stand under `loss`."""
        try:
            self.loss.check(inputs)
        except WiringError as error:
            problem = error.problem
            fields: dict[Any, Any] = {
                ("inputs", role): path for path, role, _ in self.loss.references() if path[1:]
            }
            raise WiringError(
                problem.message,
                found=problem.found,
                expected=problem.expected,
                field=("loss", *fields.get(problem.path, problem.path)),
                nearest=problem.nearest,
            ) from None

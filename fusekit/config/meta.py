"""The `meta` section: what a reader should know; nothing is computed from it."""

from typing import Annotated

from pydantic import Field

from fusekit.config.train import Section
from fusekit.config.words import Say

Text = Annotated[str, Field(max_length=10_000)]

FolderName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100),
    Say("a name for a folder: letters, digits, underscores, dots and dashes"),
]


class Meta(Section):
    """Name, origin and remarks."""

    name: FolderName | None = Field(
        None, description="names the folder of a run; default the name of the file"
    )
    title: Text | None = Field(None, description="one line")
    paper: Text | None = Field(None, description="what it reproduces: title, authors, identifier")
    notes: Text | None = Field(None, description="anything worth knowing")
    deviations: tuple[Text, ...] = Field((), description="where it differs from the paper")

"""What a target is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar

from fusekit.errors import FusekitError
from fusekit_tpu.launch.job import Job
from fusekit_tpu.launch.storage import FORMS, Kind

CONFIG = "config.yaml"
START = "start.sh"
HOME = "/fusekit"
"""Where a container finds the config and the script that starts."""


class LaunchError(FusekitError):
    """A target cannot run such a job."""


class Target(ABC):
    """Makes the files that launch a job at one place.

    Attributes:
      name: in `--target`.
      platforms: of the chips that it can have.
      storages: that its machines can share.
      local: whether its machines have the file system of this one.
      needs: the options without which it cannot be rendered.
      takes: those that it can do without.
    """

    name: ClassVar[str]
    platforms: ClassVar[tuple[str, ...]] = ("tpu", "cuda")
    storages: ClassVar[tuple[Kind, ...]]
    local: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()

    def check(self, job: Job) -> None:
        """Raises `LaunchError` if it cannot run the job."""
        if job.topology.chip.platform not in self.platforms:
            kinds = {"tpu": "TPUs", "cuda": "GPUs"}
            due = ", ".join(kinds[platform] for platform in self.platforms)
            raise LaunchError(f"target {self.name} has {due} only, not {job.topology}")
        if job.runs.kind not in self.storages:
            due = " or ".join(FORMS[kind] for kind in self.storages)
            raise LaunchError(f"target {self.name} takes --runs {due}")
        given: Mapping[str, object] = {
            "image": job.image,
            "cluster": job.place.cluster,
            "zone": job.place.zone,
            "project": job.place.project,
            "spot": job.place.spot,
        }
        for option in self.needs:
            if not given[option]:
                raise LaunchError(f"target {self.name} needs --{option}")
        for option, value in given.items():
            if value and option not in (*self.needs, *self.takes):
                raise LaunchError(f"target {self.name} takes no --{option}")

    @abstractmethod
    def files(self, job: Job) -> dict[str, str]:
        """Texts by file name."""

    @abstractmethod
    def submit(self, job: Job, folder: str) -> str:
        """The command that submits the files, once they lie in a folder."""


def within(folder: str, file: str) -> str:
    """The path of a file in a folder, for a command."""
    return str(PurePosixPath(folder) / file)

"""A job: what to train, on which chips, with which flags, and where its runs lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fusekit_tpu.flags import chosen, environment
from fusekit_tpu.launch.storage import Storage
from fusekit_tpu.topology import Topology


@dataclass(frozen=True)
class Place:
    """Where machines come from, for the targets that ask.

    Args:
      cluster: of GKE, for xpk.
      zone: of Google Cloud.
      project: of Google Cloud; default the one that is set there.
      spot: whether machines may be taken away.
    """

    cluster: str | None = None
    zone: str | None = None
    project: str | None = None
    spot: bool = False


@dataclass(frozen=True)
class Job:
    """What is to run.

    Args:
      name: of the run and of the job.
      topology: its chips.
      config: the whole experiment as YAML.
      mesh: sizes of the mesh axes that are not 1.
      runs: where folders of runs lie.
      image: of the container; nothing where there is none.
      restarts: how often it may begin again.
      place: where machines come from.
      offload: whether the program keeps arrays in the memory of the host.
    """

    name: str
    topology: Topology
    config: str
    mesh: Mapping[str, int]
    runs: Storage
    image: str | None = None
    restarts: int = 10
    place: Place = field(default_factory=Place)
    offload: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The compiler's flags, for this chip and this mesh."""
        return environment(chosen(self.topology, self.mesh, offload=self.offload))

    def command(self, config: str) -> list[str]:
        """The words that train, in each process; `config` lies where the process sees it."""
        words = ["fusekit", "train", config]
        for axis, size in self.mesh.items():
            words += ["--set", f"mesh.{axis}={size}"]
        return [*words, "--name", self.name, "--runs", self.runs.path]

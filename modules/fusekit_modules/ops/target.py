"""What a program is compiled for, said explicitly.

Never the host's default backend: a program is also compiled ahead of time, for chips that the host
does not have.
"""

from dataclasses import dataclass
from typing import Any, Literal

from jax.sharding import Mesh

from fusekit.errors import FusekitError

_GENERATIONS = {
    "v2": "v2",
    "v3": "v3",
    "v4": "v4",
    "v5 lite": "v5e",
    "v5e": "v5e",
    "v5": "v5p",
    "v5p": "v5p",
    "v6 lite": "v6e",
    "v6e": "v6e",
    "7x": "7x",
    "v7x": "7x",
}


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Args:
      platform: `cpu`, `tpu` or `gpu` (NVIDIA's).
      generation: of a TPU, such as `v5e`.
      capability: compute capability of a GPU, such as `(9, 0)`.
      interpret: kernels for it are interpreted in Python, on whatever device there is: for tests.
    """

    platform: Literal["cpu", "tpu", "gpu"]
    generation: str | None = None
    capability: tuple[int, int] | None = None
    interpret: bool = False

    @staticmethod
    def of(place: Any) -> "Target":
        """The kind of the devices of a `Layout`, a mesh or one device; these need not exist here.

        Raises `FusekitError` for kinds that are not known, and for GPUs that are not NVIDIA's.
        """
        mesh = getattr(place, "mesh", place)
        device = mesh.devices.flat[0] if isinstance(mesh, Mesh) else mesh
        platform, kind = device.platform, device.device_kind
        if platform == "cpu":
            return Target("cpu")
        if platform == "tpu":
            generation = _GENERATIONS.get(kind.removeprefix("TPU").strip())
            if generation is None:
                raise FusekitError(f"no kernels know the TPU {kind}")
            return Target("tpu", generation=generation)
        if platform in ("gpu", "cuda") and "NVIDIA" in kind.upper():
            major, _, minor = str(device.compute_capability).partition(".")
            return Target("gpu", capability=(int(major), int(minor or 0)))
        raise FusekitError(f"no kernels know the device {kind} ({platform})")

    def __str__(self) -> str:
        if self.generation:
            return f"TPU {self.generation}"
        if self.capability:
            return "GPU of compute capability {}.{}".format(*self.capability)
        return self.platform.upper()

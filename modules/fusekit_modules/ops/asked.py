"""Which backend `mesh.kernel` asks for, of an operation whose kernels run if they are asked for."""

from typing import Any

from fusekit_modules.ops.dispatch import BackendError
from fusekit_modules.ops.target import Target

CPU = Target("cpu")


def asked_of(context: Any, op: str) -> tuple[str, Target]:
    """The backend and what it is for: the kernels of the device for `pallas`, else the portable
    form or the reference. So is `pallas` where no device is known, as in exported programs.

    Raises `FusekitError` if kernels are asked for and the device has none.
    """
    asked = context.kernel
    if asked == "reference":
        return "reference", CPU
    if asked != "pallas" or context.device is None:
        return "xla", CPU
    target = Target.of(context.device)
    if target.platform == "cpu":
        raise BackendError(
            f"{context.path}: {op} cannot use `kernel: pallas`: there are no kernels for CPUs"
        )
    return target.platform, target

"""One rule for what runs an operation: by what is asked, of whom, and for which device."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from fusekit.chosen import Choices
from fusekit.context import Collector, Context
from fusekit_modules.ops import BackendError, chosen
from fusekit_modules.ops.rule import able, passes, target_of

CPU = jax.devices("cpu")[0]
V5E = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
H100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability="9.0")
OTHER = SimpleNamespace(platform="gpu", device_kind="another make")


def backends(target):
    """An operation whose kernel for TPUs is too narrow here, and whose kernel for GPUs works."""

    def of(platform, reason=None):
        return lambda: reason if target.platform == platform else f"the target is a {target}"

    return {
        "tpu": of("tpu", "heads are too wide"),
        "gpu": of("gpu"),
        "xla": able,
        "reference": able,
    }


def taken(device, kernel="auto", *, named=True, doubts=None):
    """The backend, and what is noted."""
    choices = Choices()
    context = Context(
        device=device,
        kernel=kernel,
        named=named,
        path="joint.layers",
        collector=Collector((), choices),
    )
    given = backends(target_of(context))
    choice = chosen(context, "mix", given, doubts=doubts, shapes=[jnp.zeros((2, 3))])
    (note,) = choices
    assert (note.component, note.operation, note.shapes) == ("joint", "mix", "float32[2,3]")
    assert (note.backend, note.kernel) == (choice.backend, kernel)
    assert note.kernels == (choice.backend in ("tpu", "gpu"))
    return choice.backend, note


def test_auto_takes_the_first_that_can():
    assert taken(H100)[0] == "gpu"
    backend, note = taken(V5E)
    assert (backend, note.why) == ("xla", "not tpu: heads are too wide")
    backend, note = taken(CPU)
    assert (backend, note.why) == ("xla", "there are no kernels for CPUs")
    assert taken(OTHER)[0] == "xla"
    assert taken(None)[0] == "xla"


def test_auto_leaves_alone_what_is_doubted_and_a_name_does_not():
    doubts = {"gpu": lambda: "it was never measured"}
    backend, note = taken(H100, doubts=doubts)
    assert (backend, note.why) == ("xla", "not gpu: it was never measured")
    assert taken(H100, "pallas", doubts=doubts)[0] == "gpu"


@pytest.mark.parametrize("kernel", ["xla", "reference"])
def test_a_form_by_name(kernel):
    for device in (CPU, V5E, H100, OTHER):
        backend, note = taken(device, kernel)
        assert (backend, note.why, note.unmet) == (kernel, "as asked", "")


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (CPU, "there are no kernels for CPUs"),
        (V5E, "heads are too wide"),
        (OTHER, "no kernels know the device another make"),
    ],
)
def test_a_kernel_that_cannot_is_an_error_for_whom_it_was_named_and_noted_for_all(device, reason):
    with pytest.raises(
        BackendError, match=rf"joint\.layers: mix cannot use `kernel: pallas`: {reason}"
    ):
        taken(device, "pallas")
    backend, note = taken(device, "pallas", named=False)
    assert backend == "xla"
    assert note.unmet.startswith(reason)
    assert note.why.startswith(f"not pallas: {reason}")
    assert reason not in note.why.removeprefix(f"not pallas: {reason}")


def test_where_the_device_is_not_known_nothing_is_asked_for():
    assert taken(None, "pallas")[0] == "xla"


def test_an_operation_without_a_kernel_for_the_target():
    context = Context(device=H100, kernel="pallas", path="it")
    with pytest.raises(
        BackendError, match=r"there is no kernel for a GPU of compute capability 9.0"
    ):
        chosen(context, "mix", {"xla": able})


def test_passes_are_one_note():
    choices = Choices()
    context = Context(device=H100, path="it", collector=Collector((), choices))
    narrow = {"gpu": lambda: "too many columns", "xla": able}
    wide = {"gpu": able, "xla": able}
    both = passes(context, "mix", {"forward": narrow, "backward": wide})
    assert [choice.backend for choice in both] == ["xla", "gpu"]
    passes(context, "mix", {"forward": narrow, "backward": wide})
    (note,) = choices
    assert note.backend == "forward xla, backward gpu"
    assert note.why == "not gpu: too many columns"
    with pytest.raises(BackendError, match="it: mix forward cannot use"):
        passes(
            Context(device=H100, kernel="pallas", path="it"),
            "mix",
            {"forward": narrow, "backward": wide},
        )

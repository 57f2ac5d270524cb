"""Whether a target goes with a prediction, for losses and metrics."""

from fusekit.errors import WiringError
from fusekit.stream import Signature


def differ(prediction: Signature, target: Signature, what: str, expected: object) -> WiringError:
    """The error for a target that does not go with the prediction."""
    return WiringError(
        f"the target does not go with the prediction: {what}",
        found=f"{target} for a prediction {prediction}",
        expected=expected,
        field=("target",),
    )


def holds_logits(prediction: Signature) -> bool:
    """Whether there are logits of classes: of samples, of each token, or of a grid's positions."""
    if prediction.dtype != "float":
        return False
    grid = prediction.kind == "grid" and prediction.axes[-1] == "channel"
    return grid or prediction.kind == "vector" or prediction.axes == ("time", "embed")


def positions(prediction: Signature) -> tuple[int, ...] | None:
    """The sizes of what has logits of its own; `None` where each sample has."""
    return prediction.shape[:-1] or None


def check_classes(prediction: Signature, target: Signature) -> None:
    """Classes for logits: of samples, of each token, or of each position of a grid. Raises
    `WiringError`."""
    if target.dtype != "int" or (target.kind != prediction.kind and target.kind != "scalar"):
        raise differ(
            prediction, target, "it holds no classes", "a label, or a label for each token"
        )
    if prediction.kind == "vector" and target.kind != "scalar":
        raise differ(prediction, target, "one is of samples, one of tokens", "a label")
    if prediction.kind == "grid" and target.shape != prediction.shape[:-1]:
        sizes = " x ".join(map(str, prediction.shape[:-1]))
        raise differ(prediction, target, "sizes", f"classes of {sizes} positions")
    if prediction.kind == "sequence" and target.kind == "scalar":
        hint = "a label for each token; or pool the prediction's input with .mean, .first or .last"
        raise differ(prediction, target, "one is of tokens, one of samples", hint)
    if target.kind == "sequence" and target.length != prediction.length:
        raise differ(prediction, target, "lengths", f"{prediction.length} positions")
    if target.classes is not None and target.classes != prediction.width:
        expected = f"classes: {target.classes} on the head"
        raise differ(prediction, target, "numbers of classes", expected)

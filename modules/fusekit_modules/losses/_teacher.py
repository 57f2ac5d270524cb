"""What a teacher's logits say: soft targets (Hinton et al. 2015, section 2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.errors import WiringError
from fusekit.stream import Signature


def check_teacher(prediction: Signature, teacher: Signature, field: tuple[str, ...]) -> None:
    """Logits of the same classes at the same positions. Raises `WiringError`."""
    if teacher.dtype != "float" or teacher.sizes != prediction.sizes:
        raise WiringError(
            "the teacher's logits do not go with the prediction",
            found=f"{teacher} for a prediction {prediction}",
            expected=f"logits {prediction}",
            field=field,
        )


def soft_surprise(
    logits: Float[Array, "*n c"], teacher: Float[Array, "*n c"], temperature: float
) -> Float[Array, "*n"]:
    """T^2 sum_c q_c (-log p_c), p and q the softmaxes of the logits and the teacher's over T.

    The factor T^2 keeps the size of the gradient, which for large T is that of T = 1 over T^2.
    """
    q = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature, axis=-1)
    log_p = jax.nn.log_softmax(logits / temperature, axis=-1)
    return -(temperature**2) * jnp.sum(q * log_p, axis=-1)


def entropy(teacher: Float[Array, "*n c"], temperature: float) -> Float[Array, "*n"]:
    """T^2 times the entropy of the teacher's softmax at a temperature, without gradient."""
    fixed = jax.lax.stop_gradient(teacher)
    return soft_surprise(fixed, fixed, temperature)

"""Cross-entropy of a linear map's logits over a large vocabulary, without the logits."""

from fusekit_modules.ops.linear_cross_entropy.given import Linear
from fusekit_modules.ops.linear_cross_entropy.op import able, linear_cross_entropy, pays, plan

__all__ = ["Linear", "able", "linear_cross_entropy", "pays", "plan"]

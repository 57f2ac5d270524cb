"""Cross-entropy of a linear map's logits over a large vocabulary, without the logits."""

from fusekit_modules.ops.linear_cross_entropy.op import linear_cross_entropy, pays, plan

__all__ = ["linear_cross_entropy", "pays", "plan"]

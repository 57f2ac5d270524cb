"""Logits that a head leaves to the loss, where there are many of them."""

from math import prod

from fusekit.context import Context
from fusekit.deferred import Deferred
from fusekit.parameter import Axes
from fusekit.stream import Stream
from fusekit_modules.layers.linear import Linear
from fusekit_modules.ops.linear_cross_entropy import pays


def unmade(out: Linear, axes: Axes, features: Stream, context: Context) -> Stream | Deferred:
    """What `out`, whose kernel has these logical axes, gives of the features; or, where it pays not
    to make that, features and kernel."""
    rows, vocabulary = prod(features.values.shape[:-1]), out.outputs[-1]
    if context.kernel == "reference" or not pays(rows, vocabulary):
        return features.with_(values=out(features.values)).clean()
    bias = None if out.bias is None else out.bias[...]
    asked = context.kernel, context.named
    return Deferred(features, out.kernel[...], bias, axes, context.path, *asked)

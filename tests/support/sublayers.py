"""Operators that replace a sublayer, skip it, or add a branch to it: see `tests.support.hooks`."""

from typing import ClassVar

import jax.numpy as jnp

from fusekit.layered import Branch, Edit
from tests.support.place import MATRIX, Here, Place


class ReplacePlace(Place):
    """For the tokens of one label, another map in place of a sublayer."""

    hook = "replace"
    sublayer: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]
    weights = {"kernel": MATRIX}

    def edit(self, here):
        if self.identity:
            return Edit(replace=self.own(here))

        def other(given):
            return given.with_(values=jnp.tanh(given.values @ self.kernel[...]))

        return Edit(replace={self.sublayer: Branch(other, self.labels)})

    def own(self, here: Here) -> dict[str, Branch]:
        """The layer's own map, by sublayer."""
        raise NotImplementedError


class ReplaceAttentionPlace(ReplacePlace):
    sublayer, labels = "attention", ("b",)

    def own(self, here):
        def attend(given):
            return given.with_(values=here.layer.attention(given, context=here.context))

        return {"attention": Branch(attend)}


class ReplaceMlpPlace(ReplacePlace):
    sublayer, labels = "mlp", ("a",)

    def own(self, here):
        def feed(given):
            return given.with_(values=here.layer.mlp(given.values))

        return {"mlp": Branch(feed, ("a",))}


class ReplaceNormPlace(ReplacePlace):
    sublayer, labels = "norm", ("a",)

    def own(self, here):
        def normal(module):
            return lambda given: given.with_(values=module(given.values))

        layer = here.layer
        return {
            "attention_norm": Branch(normal(layer.attention_norm), ("a",)),
            "mlp_norm": Branch(normal(layer.mlp_norm), ("a",)),
        }


class SkipPlace(Place):
    """The tokens of one label do not take a sublayer."""

    hook = "skip"
    sublayer: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]

    def edit(self, here):
        return Edit(skip={self.sublayer: ("nobody",) if self.identity else self.labels})


class SkipAttentionPlace(SkipPlace):
    sublayer, labels = "attention", ("b",)


class SkipMlpPlace(SkipPlace):
    sublayer, labels = "mlp", ("a",)


class SkipNormPlace(SkipPlace):
    sublayer, labels = "norm", ("b",)


class BranchPlace(Place):
    """A branch beside a sublayer, or after it."""

    sublayer: ClassVar[str]
    labels: ClassVar[tuple[str, ...] | None]
    weights = {"kernel": MATRIX}

    def edit(self, here):
        def branch(given):
            kernel = jnp.zeros((self.width,) * 2) if self.identity else self.kernel[...]
            return given.with_(values=given.values @ kernel)

        return Edit(**{self.hook: {self.sublayer: Branch(branch, self.labels)}})


class ResidualAttentionPlace(BranchPlace):
    hook, sublayer, labels = "residual", "attention", None


class ResidualMlpPlace(BranchPlace):
    hook, sublayer, labels = "residual", "mlp", ("a",)


class ResidualNormPlace(BranchPlace):
    hook, sublayer, labels = "residual", "norm", ("b",)


class ThenAttentionPlace(BranchPlace):
    hook, sublayer, labels = "then", "attention", ("b",)


class ThenMlpPlace(BranchPlace):
    hook, sublayer, labels = "then", "mlp", None

"""Contrastive losses whose scores are never all in memory."""

from fusekit_modules.ops.contrastive.op import info_nce, siglip
from fusekit_modules.ops.contrastive.several import gram, symile

__all__ = ["gram", "info_nce", "siglip", "symile"]

"""Contrastive losses whose scores are never all in memory."""

from fusekit_modules.ops.contrastive.op import info_nce, siglip
from fusekit_modules.ops.contrastive.several import gram, symile
from fusekit_modules.ops.contrastive.soft import soft_info_nce

__all__ = ["gram", "info_nce", "siglip", "soft_info_nce", "symile"]

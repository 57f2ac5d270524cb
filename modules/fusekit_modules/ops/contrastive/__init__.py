"""Contrastive losses whose scores are never all in memory."""

from fusekit_modules.ops.contrastive.op import gram, info_nce, siglip

__all__ = ["gram", "info_nce", "siglip"]

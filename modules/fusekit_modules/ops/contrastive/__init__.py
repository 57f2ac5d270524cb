"""Contrastive losses whose scores are never all in memory."""

from fusekit_modules.ops.contrastive.op import info_nce, siglip

__all__ = ["info_nce", "siglip"]

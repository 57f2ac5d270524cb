"""Attention of several short streams at once, with shared tokens and absent modalities."""

from fusekit_modules.ops.stream_attention.form import Form, Queries, Reads, Source
from fusekit_modules.ops.stream_attention.op import Run, plan, stream_attention, unsupported

__all__ = [
    "Form",
    "Queries",
    "Reads",
    "Run",
    "Source",
    "plan",
    "stream_attention",
    "unsupported",
]

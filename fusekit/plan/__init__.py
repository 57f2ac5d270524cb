"""Planning: what a train step costs on chips that are not here."""

from fusekit.plan.cache import Cache
from fusekit.plan.plan import Plan
from fusekit.plan.plan import plan as planned
from fusekit.plan.search import Found
from fusekit.plan.search import search as searched
from fusekit.plan.table import render, render_search
from fusekit_tpu.topology import Topology

__all__ = [
    "Cache",
    "Found",
    "Plan",
    "Topology",
    "planned",
    "render",
    "render_search",
    "searched",
]

"""Products of rows with the weights of their groups, rows sorted by group."""

from fusekit_modules.ops.grouped_product.op import able, grouped_product, plan
from fusekit_modules.ops.grouped_product.sorting import Sorted

__all__ = ["Sorted", "able", "grouped_product", "plan"]

"""A block of a transformer as one would write it in PyTorch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """A pre-norm block; with a source its attention reads that, normalised alike."""

    def __init__(self, width: int, heads: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.heads, self.activation = heads, activation
        self.first, self.second = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        a = self.first(x)
        b = a if y is None else self.first(y)
        q, k, v = self.split(self.query(a)), self.split(self.key(b)), self.split(self.value(b))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(self.activation(self.up(self.second(x))))

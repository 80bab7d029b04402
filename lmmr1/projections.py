"""Linear layers that share their input, as one call: fused for a small model, one after another for a large one.

A small model's time goes into the number of products, so its weights are put side by side (and adapters into them).
A large model's products fill the device one by one, and there the copies would cost memory: of the 3B model's query,
key, value, gate and up alone 7.2 GB in fp32, and as much again for their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F


class Projection(Protocol):
    """x (n, in) to (n, out), the outputs of several layers side by side."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product, with bias."""

    def add(self, to: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`to` + the product; for layers without bias."""


@dataclass(frozen=True, slots=True)
class Fused:
    """One matrix."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See Projection."""
        return F.linear(x, self.weight, self.bias)

    def add(self, to: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """See Projection."""
        return torch.addmm(to, x, self.weight.t())


@dataclass(frozen=True, slots=True)
class Apart:
    """The model's own layers (with adapters peft's), which hold the weights and get the gradients."""

    layers: tuple[Any, ...]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See Projection."""
        parts = [layer(x) for layer in self.layers]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def add(self, to: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """See Projection."""
        return to + self(x)

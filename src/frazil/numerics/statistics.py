"""Small statistics that several rooms need."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ranks(values: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
    """Ranks from 0, ties sharing their mean rank."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    return (last - (counts.to(torch.float64) + 1) / 2)[inverse]


def pearson(a: Float[Tensor, " count"], b: Float[Tensor, " count"]) -> float:
    """Linear correlation; 0 when either side is constant."""
    a, b = a.to(torch.float64) - a.to(torch.float64).mean(), b.to(torch.float64) - b.to(torch.float64).mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def spearman(a: Float[Tensor, " count"], b: Float[Tensor, " count"]) -> float:
    """Rank correlation (Spearman 1904); 0 when either side is constant."""
    return pearson(ranks(a), ranks(b))

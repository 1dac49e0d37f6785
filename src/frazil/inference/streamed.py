"""Errors of many images with the memory of a few: forward and backward pass of one piece before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# (rows of the batch, the per-image tensors of those rows) -> one error per row
ErrorOf = Callable[[slice, tuple[Tensor, ...]], Tensor]

# what the autograd function is given before its tensors
OTHER_ARGUMENTS = 3


def streamed_mean_error(
    error_of: ErrorOf, per_image: tuple[Tensor, ...], parameters: Sequence[Tensor], images_at_once: int
) -> Float[Tensor, ""]:
    """Mean of the errors of a batch of images, differentiable in ``per_image`` and ``parameters``.

    Activations live only for ``images_at_once`` images, so they stay in the cache of a processor. If an error is not a
    finite number neither is the mean, and no gradient should be taken.
    """
    if torch.is_grad_enabled():
        return _Streamed.apply(error_of, images_at_once, len(per_image), *per_image, *parameters)
    pieces = [slice(first, first + images_at_once) for first in range(0, per_image[0].shape[0], images_at_once)]
    return torch.cat([error_of(rows, tuple(t[rows] for t in per_image)) for rows in pieces]).mean()


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error_of: ErrorOf, images_at_once: int, split: int, *tensors: Tensor) -> Tensor:
        wanted = [place for place, tensor in enumerate(tensors) if ctx.needs_input_grad[OTHER_ARGUMENTS + place]]
        # many half precision gradients are added up in single precision
        totals = [
            torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32))
            for t in map(tensors.__getitem__, wanted)
        ]
        count = tensors[0].shape[0]
        mean = tensors[0].new_zeros(())
        for first in range(0, count, images_at_once):
            rows = slice(first, first + images_at_once)
            leaves = tuple(t[rows].detach().requires_grad_(t.requires_grad) for t in tensors[:split])
            with torch.enable_grad():
                error = error_of(rows, leaves).sum() / count
            mean += error.detach()
            if not wanted or not bool(error.isfinite()):
                continue
            sources = [leaves[place] if place < split else tensors[place] for place in wanted]
            parts = [total[rows] if place < split else total for place, total in zip(wanted, totals, strict=True)]
            for part, gradient in zip(parts, torch.autograd.grad(error, sources), strict=True):
                part += gradient
        ctx.save_for_backward(*totals)
        ctx.wanted, ctx.dtypes = wanted, [tensor.dtype for tensor in tensors]
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        result: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for place, total in zip(ctx.wanted, ctx.saved_tensors, strict=True):
            result[OTHER_ARGUMENTS + place] = (total * gradients[0]).to(ctx.dtypes[place])
        return tuple(result)

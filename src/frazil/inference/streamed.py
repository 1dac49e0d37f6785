"""Errors of many images with the memory of a few: forward and backward pass of one piece before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# (rows of the batch, the per-image tensors of those rows) -> one error per row
ErrorOf = Callable[[slice, tuple[Tensor, ...]], Tensor]

# what the autograd function is given before its tensors
OTHER_ARGUMENTS = 4


def streamed_mean_error(
    error_of: ErrorOf, per_image: tuple[Tensor, ...], parameters: Sequence[Tensor], images_at_once: int
) -> tuple[Float[Tensor, ""], Bool[Tensor, " batch"]]:
    """Mean of the errors of a batch of images, differentiable in ``per_image`` and ``parameters``.

    Activations live only for ``images_at_once`` images, so they stay in the cache of a processor. An image whose error is
    not a number is left out of the mean and of every gradient.

    Returns:
        The mean, and which images were counted. If none was, the mean is not a number.
    """
    counted = torch.ones(per_image[0].shape[0], dtype=torch.bool)
    mean = _Streamed.apply(error_of, images_at_once, len(per_image), counted, *per_image, *parameters)
    return mean, counted


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, error_of: ErrorOf, images_at_once: int, split: int, counted: Tensor, *tensors: Tensor
    ) -> Tensor:
        wanted = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
        totals = [torch.zeros_like(tensors[place]) for place in wanted]
        pending = [slice(i, i + images_at_once) for i in range(0, len(counted), images_at_once)][::-1]
        errors: list[Tensor] = []
        while pending:
            rows = pending.pop()
            leaves = tuple(t[rows].detach().requires_grad_(t.requires_grad) for t in tensors[:split])
            with torch.enable_grad():
                error = error_of(rows, leaves)
            size = error.shape[0]
            if bool(error.isfinite().all()):
                errors.append(error.detach())
                sources = [leaves[place] if place < split else tensors[place] for place in wanted]
                found = torch.autograd.grad(error, sources, torch.ones_like(error)) if wanted else ()
                for place, total, gradient in zip(wanted, totals, found, strict=True):
                    part = total[rows] if place < split else total
                    part += gradient
            elif size > 1:
                # find the image that spoils its piece
                pending += [slice(i, i + 1) for i in range(rows.start, rows.start + size)][::-1]
            else:
                counted[rows] = False
        ctx.save_for_backward(*totals)
        ctx.wanted, ctx.count = wanted, max(int(counted.sum()), 1)
        return torch.cat(errors).mean() if errors else tensors[0].new_full((), torch.nan)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradients[0] / ctx.count
        result: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for place, total in zip(ctx.wanted, ctx.saved_tensors, strict=True):
            result[OTHER_ARGUMENTS + place] = total * scale
        return tuple(result)

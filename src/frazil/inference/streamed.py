"""Errors of many images with the memory of a few: forward and backward pass of one piece before the next begins.

Several workers may take pieces of their own while every operation runs on one thread. Then the threads meet once per
batch and not in every operation, so little is lost where operations are small or the processor is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# (rows of the batch, the per-image tensors of those rows) -> one error per row
ErrorOf = Callable[[slice, tuple[Tensor, ...]], Tensor]

# what the autograd function is given before its tensors
OTHER_ARGUMENTS = 4


def streamed_mean_error(
    error_of: ErrorOf,
    per_image: tuple[Tensor, ...],
    parameters: Sequence[Tensor],
    images_at_once: int,
    workers: int = 1,
) -> Float[Tensor, ""]:
    """Mean of the errors of a batch of images, differentiable in ``per_image`` and ``parameters``.

    Activations live only for ``images_at_once`` images per worker, so they stay in the cache of a processor. If an error
    is not a finite number neither is the mean, and no gradient should be taken.

    Args:
        workers: threads that take pieces of the batch, see `one_thread_per_operation`. The order in which gradients are
            added up depends on their number and on nothing else.
    """
    if torch.is_grad_enabled():
        return _Streamed.apply(error_of, images_at_once, workers, len(per_image), *per_image, *parameters)
    pieces = _pieces(per_image[0].shape[0], images_at_once)
    return torch.cat([error_of(rows, tuple(t[rows] for t in per_image)) for rows in pieces]).mean()


def _pieces(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


@contextmanager
def one_thread_per_operation() -> Iterator[int]:
    """Every operation runs on one thread within the block; gives the number of threads there were, for workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "streamed")


def _share_out(work: Callable[[list[slice]], Any], pieces: list[slice], workers: int) -> list[Any]:
    """The results of the work on all pieces, one per worker, always in the same order."""
    workers = min(workers, len(pieces))
    if workers == 1:
        return [work(pieces)]
    return list(_pool(workers).map(work, [pieces[worker::workers] for worker in range(workers)]))


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error_of: ErrorOf, images_at_once: int, workers: int, split: int, *tensors: Tensor) -> Tensor:
        wanted = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
        of_images = [place for place in wanted if place < split]
        of_all = [place for place in wanted if place >= split]
        count = tensors[0].shape[0]
        slopes = {place: torch.zeros_like(tensors[place]) for place in of_images}

        def work(pieces: list[slice]) -> tuple[Tensor, list[Tensor]]:
            mean = tensors[0].new_zeros(())
            # many half precision gradients are added up in single precision
            sums = [torch.zeros_like(tensors[p], dtype=_at_least_single(tensors[p].dtype)) for p in of_all]
            for rows in pieces:
                leaves = tuple(t[rows].detach().requires_grad_(t.requires_grad) for t in tensors[:split])
                with torch.enable_grad():
                    error = error_of(rows, leaves).sum() / count
                mean += error.detach()
                if not wanted or not bool(error.isfinite()):
                    continue
                found = torch.autograd.grad(error, [*(leaves[p] for p in of_images), *(tensors[p] for p in of_all)])
                for place, gradient in zip(of_images, found, strict=False):
                    slopes[place][rows] = gradient
                for total, gradient in zip(sums, found[len(of_images) :], strict=True):
                    total += gradient
            return mean, sums

        means, sums = zip(*_share_out(work, _pieces(count, images_at_once), workers), strict=True)
        totals = [torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)]
        ctx.save_for_backward(*slopes.values(), *totals)
        ctx.wanted, ctx.dtypes = wanted, [tensor.dtype for tensor in tensors]
        return torch.stack(means).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        result: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for place, total in zip(ctx.wanted, ctx.saved_tensors, strict=True):
            result[OTHER_ARGUMENTS + place] = (total * gradients[0]).to(ctx.dtypes[place])
        return tuple(result)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

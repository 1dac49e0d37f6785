"""Images against every view of a density: the posterior over a grid of poses, and the sums that it gives.

For a whitened image y with transfer function T (whitened too), a view m of the density and a shift t,

    log p(y | view, t) = -|y e^{2 pi i k.t} - T m|^2 + const = 2 Re <T y e^{2 pi i k.t}, m> - sum_s P_s(T) P_s(m) - |y|^2

with P_s the powers of transfer function and view in shell s (astigmatism is ignored in this one term). The cross term of many
images with many views is a matrix product. A view turned by half a turn in its plane has conjugate coefficients: real and
imaginary parts are multiplied apart, and their sum and difference are both scores, at half the cost.

Expectation-maximisation needs, for every view, the sum of ``T y`` over images and shifts weighted with their posterior:
the transposed product. So a pass costs two matrix products whatever the density is made of (a volume's slices, several
volumes', or a class average turned in its plane).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.fourier import HalfPlane
from frazil.physics.value import TensorValue

# numbers that the scores of one batch of images may take at once
SCORES_AT_ONCE = 4_000_000
# posterior weights this far (in their logarithm) below the highest are left out, where no more than this share is above
NEGLIGIBLE, FEW = 16.0, 0.01


@final
@dataclass(frozen=True)
class CoarseImages(TensorValue):
    """Whitened coefficients of images in a low band, with their transfer functions.

    Attributes:
        values: y, centred on the image. transfer: T, real, whitened like the image.
    """

    values: Float[Tensor, "images coefficients 2"]
    transfer: Float[Tensor, "images coefficients"]

    def within(self, first: int, last: int) -> CoarseImages:
        """The coefficients from ``first`` up to ``last``."""
        return CoarseImages(self.values[:, first:last], self.transfer[:, first:last])

    def scaled(self, gain: Float[Tensor, " coefficients"]) -> CoarseImages:
        """Whitened anew: divided by another noise."""
        return CoarseImages(self.values * gain[:, None], self.transfer * gain)


@final
@dataclass(frozen=True)
class Views:
    """Slices of densities, one of each pair that half a turn in the plane makes conjugate.

    A pose number counts views first, then the half-turned ones: view v is number v, half-turned v + count.

    Attributes:
        values: (views, coefficients, 2).
        prior: log prior of each view, half-turned like it; None where all are alike.
        classes: densities that these are views of, one after the other, as many views of each.
    """

    values: Float[Tensor, "views coefficients 2"]
    prior: Float[Tensor, " views"] | None = None
    classes: int = 1

    @property
    def count(self) -> int:
        """How many views are listed; twice as many are compared."""
        return self.values.shape[0]


@final
@dataclass(frozen=True)
class ViewSums:
    """What the images give each view.

    Attributes:
        numerator: sum of weights times T y, in the frame of the view. weight: of the powers of T in each shell.
        share: posterior weight of all images in each view (and its half-turned one).
    """

    numerator: Float[Tensor, "views coefficients 2"]
    weight: Float[Tensor, "views shells"]
    share: Float[Tensor, " views"]


@final
@dataclass(frozen=True)
class Match:
    """How well each image fits the views.

    Attributes:
        evidence: log of the sum over poses of prior times likelihood ratio to an empty image, at the temperature.
        pose: number of the likeliest view. shift: number of its shift. perplexity: effective number of poses (with shifts).
        likeliest: log likelihood ratio of the likeliest pose. of_class: the evidence of each class alone.
    """

    evidence: Float[Tensor, " images"]
    pose: Int[Tensor, " images"]
    shift: Int[Tensor, " images"]
    perplexity: Float[Tensor, " images"]
    likeliest: Float[Tensor, " images"]
    of_class: Float[Tensor, "images classes"]


def shift_phases(shifts: Float[Tensor, "shifts 2"], plane: HalfPlane) -> Float[Tensor, "shifts coefficients 2"]:
    """exp(2 pi i k.t), t in pixels: what brings an image displaced by t back to the centre."""
    index = torch.stack((plane.x, plane.y)).to(torch.float64)
    angle = (2 * torch.pi / plane.box_size) * (shifts.to(torch.float64) @ index)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).to(torch.float32)


def disc_of_shifts(reach: float, step: float) -> Float[Tensor, "shifts 2"]:
    """Shifts (x, y) on a square lattice within a disc, the nearest to the centre first; same unit as the arguments."""
    count = int(reach / step + 1e-9)
    axis = torch.arange(-count, count + 1, dtype=torch.float32) * step
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    shifts = torch.stack((x.reshape(-1), y.reshape(-1)), dim=1)
    length = shifts.norm(dim=1)
    inside = length <= reach + 1e-6
    return shifts[inside][length[inside].argsort(stable=True)]


def shell_sums(values: Float[Tensor, "rows coefficients"], plane: HalfPlane) -> Float[Tensor, "rows shells"]:
    """Sums over the coefficients of each shell; the plane lists them shell by shell."""
    ends = torch.bincount(plane.shell).cumsum(0)
    total = torch.cat((values.new_zeros(len(values), 1), values.cumsum(dim=1)[:, ends - 1]), dim=1)
    return total[:, 1:] - total[:, :-1]


def match_views(
    images: CoarseImages,
    views: Views,
    shifts: Float[Tensor, "shifts 2"],
    plane: HalfPlane,
    *,
    temperature: float = 1.0,
    shift_prior: Float[Tensor, " shifts"] | None = None,
) -> tuple[Match, ViewSums]:
    """The posterior of every image over views and shifts, and the sums of expectation-maximisation.

    Args:
        shifts: in pixels of ``plane``'s box. plane: where the coefficients lie.
        temperature: log likelihoods are divided by it; above 1 the posterior is broader than the images would have it.
        shift_prior: log prior of each shift.
    """
    phases = torch.view_as_complex(shift_phases(shifts, plane))
    real, imaginary = _columns(views, plane, temperature)
    prior = _log_prior(views, shifts, shift_prior)
    size = _images_at_once(len(images), len(shifts), views.count)

    def work(batches: Sequence[Tensor]) -> tuple[list[Match], Tensor, Tensor, Tensor]:
        found, of_real, of_imaginary = [], torch.zeros_like(real), torch.zeros_like(imaginary)
        share = torch.zeros(views.count)
        for rows in batches:
            a, b = _moved(images[rows], phases, plane)
            upright, turned = _scores(a, b, real, imaginary, prior)
            few = _few_weights(upright, turned, len(rows), views.classes)
            if few is not None:
                found.append(few.posterior(len(rows), len(phases), views, temperature))
                of_real.index_add_(0, few.view, few.weight[:, None] * a[few.row])
                of_imaginary.index_add_(0, few.view, (few.weight * few.sign)[:, None] * b[few.row])
                share.index_add_(0, few.view, few.weight)
                continue
            found.append(_posterior(upright, turned, len(rows), views.classes, temperature))
            even, odd = upright + turned, upright.sub_(turned)
            of_real.addmm_(even.T, a)
            of_imaginary.addmm_(odd.T, b)
            share += even.sum(dim=0)
        return found, of_real, of_imaginary, share

    # each worker takes a stretch of batches and sums of its own: operations of one thread never wait for one another
    batches = torch.arange(len(images)).split(size)
    with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
        stretches = [batches[start::threads] for start in range(min(threads, len(batches)))]
        parts = list(pool.map(work, stretches))
    matches = [parts[number % len(parts)][0][number // len(parts)] for number in range(len(batches))]
    sums_real, sums_imaginary, share = (torch.stack(column).sum(0) for column in list(zip(*parts, strict=True))[1:])
    numerator = torch.stack((sums_real[:, : plane.count], sums_imaginary), dim=-1)
    return _joined(matches), ViewSums(numerator, -sums_real[:, plane.count :], share)


def _images_at_once(images: int, shifts: int, views: int) -> int:
    """As many as memory allows, and few enough for every thread to have some."""
    return max(1, min(SCORES_AT_ONCE // (2 * shifts * views), math.ceil(images / (2 * torch.get_num_threads()))))


def _columns(views: Views, plane: HalfPlane, temperature: float) -> tuple[Tensor, Tensor]:
    """What real and imaginary parts of images are multiplied with; the powers of the shells stand behind the real ones."""
    power = shell_sums(views.values.square().sum(dim=-1), plane)
    real = torch.cat((2 * views.values[..., 0], power), dim=1) / temperature
    return real, 2 * views.values[..., 1] / temperature


def _moved(images: CoarseImages, phases: Tensor, plane: HalfPlane) -> tuple[Tensor, Tensor]:
    """Real parts of T y for every shift, with minus the powers of T behind them, and imaginary parts: a row for each."""
    product = torch.view_as_complex(images.values) * images.transfer
    moved = (product[:, None] * phases).flatten(0, 1)
    counts = torch.bincount(plane.shell).clamp(min=1)
    power = shell_sums(images.transfer.square(), plane) / counts
    return torch.cat((moved.real, -power.repeat_interleave(len(phases), dim=0)), dim=1), moved.imag.contiguous()


def _log_prior(views: Views, shifts: Tensor, shift_prior: Tensor | None) -> Float[Tensor, "shifts views"]:
    """Log prior of every shift and view, of which each half-turned one has the same."""
    of_shifts = torch.zeros(len(shifts)) if shift_prior is None else shift_prior
    of_views = torch.zeros(views.count) if views.prior is None else views.prior
    both = of_shifts[:, None] + of_views
    return both - torch.logsumexp(both.flatten(), 0) - torch.log(torch.tensor(2.0))


def _scores(a: Tensor, b: Tensor, real: Tensor, imaginary: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Log posterior, up to a constant of the image, of views and of half-turned views: a row for each image and shift."""
    even, odd = a @ real.T, b @ imaginary.T
    even.view(-1, *prior.shape).add_(prior)
    return even + odd, even.sub_(odd)


@final
@dataclass(frozen=True)
class _FewWeights:
    """The posterior weights that matter, where they are few: an entry for each.

    Attributes:
        row: number of image and shift. view, sign: which view, and -1 where it is half-turned. image: whose weight it is.
        weight: of all of an image the sum is one. best: the highest log score of each image in each class. total: sum of an
            image's weights in units of the highest.
    """

    row: Int[Tensor, " entries"]
    view: Int[Tensor, " entries"]
    sign: Float[Tensor, " entries"]
    image: Int[Tensor, " entries"]
    weight: Float[Tensor, " entries"]
    best: Float[Tensor, "images classes"]
    total: Float[Tensor, " images"]

    def posterior(self, count: int, shifts: int, views: Views, temperature: float) -> Match:
        """What they say of each image."""
        image, weight = self.image, self.weight
        squares = torch.zeros(count).index_add_(0, image, weight.square())
        kind = self.view // (views.count // views.classes)
        sums = torch.zeros(count * views.classes).index_add_(0, image * views.classes + kind, weight).view(count, -1)
        order = weight.argsort(stable=True)
        pose, shift = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        # the last of an image's entries is its highest
        pose[image[order]] = (self.view + (self.sign < 0) * views.count)[order]
        shift[image[order]] = (self.row % shifts)[order]
        peak = self.best.amax(1)
        evidence = peak + self.total.log()
        of_class = torch.maximum(self.best, evidence[:, None] + sums.log())
        return Match(evidence * temperature, pose, shift, 1 / squares, peak, of_class * temperature)


def _few_weights(upright: Tensor, turned: Tensor, count: int, classes: int) -> _FewWeights | None:
    """The weights that log scores give; None where too many of them matter."""
    shifts = len(upright) // count
    best = _best_of_classes(upright, turned, count, classes)
    peak = best.amax(1)
    floor = (peak - NEGLIGIBLE).repeat_interleave(shifts)[:, None]
    above = [scores > floor for scores in (upright, turned)]
    if sum(int(part.sum()) for part in above) > FEW * 2 * upright.numel():
        return None
    places = [torch.nonzero(part, as_tuple=True) for part in above]
    row, view = (torch.cat(column) for column in zip(*places, strict=True))
    sign = torch.ones(len(row))
    sign[len(places[0][0]) :] = -1
    image = row // shifts
    weight = torch.cat([scores[place] for scores, place in zip((upright, turned), places, strict=True)])
    weight = (weight - peak[image]).exp()
    total = torch.zeros(count).index_add_(0, image, weight)
    return _FewWeights(row, view, sign, image, weight / total[image], best, total)


def _best_of_classes(upright: Tensor, turned: Tensor, count: int, classes: int) -> Float[Tensor, "images classes"]:
    """The highest log score of each image in each class."""
    each = [scores.view(count, -1, classes, scores.shape[1] // classes).amax((1, 3)) for scores in (upright, turned)]
    return torch.maximum(*each)


def _posterior(upright: Tensor, turned: Tensor, count: int, classes: int, temperature: float) -> Match:
    """What the scores say of each image; the scores become posterior weights, in place."""
    flat = upright.view(count, -1), turned.view(count, -1)
    best, of_class = [scores.max(dim=1) for scores in flat], _best_of_classes(upright, turned, count, classes)
    peak = torch.maximum(best[0].values, best[1].values)
    for scores in flat:
        scores.sub_(peak[:, None]).exp_()
    total = flat[0].sum(dim=1) + flat[1].sum(dim=1)
    squares = sum(torch.linalg.vector_norm(scores, dim=1).square() for scores in flat)
    for scores in flat:
        scores.div_(total[:, None])
    parts = [scores.view(count, -1, classes, upright.shape[1] // classes).sum((1, 3)) for scores in (upright, turned)]
    half = best[1].values > best[0].values
    place = torch.where(half, best[1].indices, best[0].indices)
    views = upright.shape[1]
    pose = place % views + half * views
    evidence, perplexity = peak + total.log(), total.square() / squares
    of_class = torch.maximum(of_class, evidence[:, None] + (parts[0] + parts[1]).log())
    return Match(evidence * temperature, pose, place // views, perplexity, peak, of_class * temperature)


def _joined(parts: list[Match]) -> Match:
    return Match(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Match)))


def likeliest_views(
    images: CoarseImages,
    views: Views,
    shifts: Float[Tensor, "shifts 2"],
    plane: HalfPlane,
    count: int,
    *,
    shift_prior: Float[Tensor, " shifts"] | None = None,
) -> tuple[Int[Tensor, "images count"], Int[Tensor, "images count"], Float[Tensor, "images count"]]:
    """For every image the views that fit best, each with its best shift: pose numbers, shift numbers, log posteriors.

    Log posteriors are without their constant, the same for all views of an image.
    """
    phases = torch.view_as_complex(shift_phases(shifts, plane))
    real, imaginary = _columns(views, plane, 1.0)
    prior = _log_prior(views, shifts, shift_prior)
    size = _images_at_once(len(images), len(shifts), views.count)

    def work(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = _moved(images[rows], phases, plane)
        best = [scores.view(len(rows), len(shifts), -1).max(dim=1) for scores in _scores(a, b, real, imaginary, prior)]
        value, place = (torch.cat(column, dim=1) for column in zip(*best, strict=True))
        top = value.topk(min(count, value.shape[1]), dim=1)
        return top.indices, place.gather(1, top.indices), top.values

    with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(work, torch.arange(len(images)).split(size)))
    pose, shift, score = (torch.cat(column) for column in zip(*parts, strict=True))
    return pose, shift, score

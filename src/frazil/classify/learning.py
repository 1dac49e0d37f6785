"""All rounds of a classification in order, with checkpoints, and the last look at every particle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.classify.averages import ClassSums, brightness, recentred
from frazil.classify.expectation import Search
from frazil.classify.images import ClassImages
from frazil.classify.rounds import Plan, Progress, advanced, coarse_search, fine_search, random_start, whole_pass
from frazil.engine.checkpoint import load_checkpoint, save_checkpoint
from frazil.engine.job import Job
from frazil.engine.sampler import Sampler
from frazil.inference.matching import Match


@final
@dataclass(frozen=True)
class Alignment:
    """Each particle in the plane of its class.

    Attributes:
        chosen: number of the class. angle: degrees from the class to the image, counter-clockwise. shift: of the particle in
            its image, Å.
    """

    chosen: Int[Tensor, " images"]
    angle: Float[Tensor, " images"]
    shift: Float[Tensor, "images 2"]


@final
@dataclass(frozen=True)
class Classes:
    """What classification found.

    Attributes:
        progress: sums and averages of all images. search: what they were compared at. match: of each image with its class.
    """

    progress: Progress
    search: Search
    match: Match
    alignment: Alignment


def rows_of_round(number: int, count: int, batch_size: int, seed: int) -> Int[Tensor, " rows"]:
    """The particles of a round: epoch after epoch, each in an order of its own."""
    batches = -(-count // batch_size)
    epoch, place = divmod(number, batches)
    order = Sampler(count, batch_size, seed).order(epoch)
    return order[place * batch_size : (place + 1) * batch_size]


def learn(images: ClassImages, plan: Plan, batch_size: int, job: Job, checkpoint_every: int) -> Classes:
    """Run all rounds, from the last checkpoint where there is one."""
    path = job.checkpoints / "classes.safetensors"
    coarse = coarse_search(plan, images)
    if path.exists():
        progress = load(path, job)
        job.log(f"going on after round {progress.round}")
    else:
        progress = random_start(plan, images, coarse)
    search = fine_search(plan, images, progress.band) if progress.centred else coarse
    batch_size = min(batch_size, images.count)
    total = (plan.rounds - progress.round) * batch_size + (3 - progress.centred) * images.count
    with job.progress(total, "classifying") as shown:
        while progress.round < plan.rounds:
            if progress.round >= plan.coarse_rounds and not progress.centred:
                progress = centred(progress, plan, images, coarse)
                shown.advance(images.count)
            if progress.centred and (search is coarse or search.layout.band != progress.band):
                search = fine_search(plan, images, progress.band)
            rows = rows_of_round(progress.round, images.count, batch_size, plan.seed)
            progress, found = advanced(progress, plan, images, rows, search)
            shown.advance(len(rows))
            share = progress.sums.share.sum(dim=0)
            job.metric(
                round=progress.round,
                resolution=round(images.grid.resolution_of(search.layout.band), 3),
                evidence=round(float(found.match.evidence.mean()), 4),
                classes_in_use=int((share > 0.1 * share.mean()).sum()),
            )
            if progress.round % checkpoint_every == 0 or progress.round == plan.rounds:
                save(path, progress, job)
        progress = centred(progress, plan, images, fine_search(plan, images, progress.band))
        shown.advance(images.count)
        search = fine_search(plan, images, progress.band)
        progress, found = whole_pass(progress, plan, images, search)
        shown.advance(images.count)
    return Classes(progress, search, found.match, aligned(found.match, search, progress.centre, plan.classes))


def centred(progress: Progress, plan: Plan, images: ClassImages, search: Search) -> Progress:
    """A look at all images: where each particle lies, once its class is moved to the middle."""
    before = progress.centre if progress.centred else torch.zeros_like(progress.centre)
    progress, found = whole_pass(progress, plan, images, search)
    where = aligned(found.match, search, before, plan.classes)
    sign = plan.sign or brightness(progress.sums, images.layout.band, plan.diameter / images.grid.extent)
    averages, moved = recentred(progress.averages, plan.mask, sign)
    shift = where.shift + turned(moved[where.chosen] * images.grid.pixel_size, where.angle)
    sums = progress.sums.moved(moved, images.layout.band, images.grid.box_size)
    return replace(progress, sums=sums, averages=averages, centre=shift)


def turned(vectors: Float[Tensor, "rows 2"], degrees: Float[Tensor, " rows"]) -> Float[Tensor, "rows 2"]:
    """Vectors (x, y) turned counter-clockwise."""
    angle = torch.deg2rad(degrees)
    x, y = vectors.unbind(dim=1)
    return torch.stack((angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y), dim=1)


def aligned(match: Match, search: Search, centre: Float[Tensor, "images 2"], classes: int) -> Alignment:
    """What the number of a pose means."""
    angles = len(search.angles)
    half, view = match.pose // (classes * angles), match.pose % (classes * angles)
    angle = search.angles[view % angles] + 180.0 * half
    return Alignment(view // angles, angle, centre + search.shifts[match.shift])


def save(path: Path, progress: Progress, job: Job) -> None:
    """Write a checkpoint."""
    tensors = progress.sums.tensors() | {"averages": progress.averages, "centre": progress.centre}
    told = {"band": progress.band, "round": progress.round, "metrics": job.metrics.text()}
    save_checkpoint(path, tensors, told)


def load(path: Path, job: Job) -> Progress:
    """Read a checkpoint, and take the metrics back to where it was."""
    tensors, told = load_checkpoint(path)
    job.metrics.restore(told["metrics"])
    sums = ClassSums(tensors["numerator"], tensors["weight"], tensors["share"])
    return Progress(sums, tensors["averages"], tensors["centre"], told["band"], told["round"])

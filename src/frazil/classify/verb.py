"""The job of `frazil classify`: check the input, read it, learn the classes, judge them, write, draw."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frazil.classify import Config
from frazil.classify.averages import ClassSums, brightness
from frazil.classify.diameter import found_diameter
from frazil.classify.images import EDGE, image_mask, read_images
from frazil.classify.learning import Alignment, Classes, learn
from frazil.classify.quality import Quality, judge
from frazil.classify.rounds import COARSENESS, Plan
from frazil.data.mrc import write_stack
from frazil.data.stack import Particles, read_particles, write_particles_star
from frazil.data.star import write_star
from frazil.data.table import Block, Table
from frazil.engine.job import Job
from frazil.errors import InputError
from frazil.inference.coarse_images import coarse_size
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.masks import soft_circle
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

GIB = 1024**3
# the search begins with detail of this share of the diameter, and of this many Å at least
FIRST_DETAIL = 0.11
FINEST_FIRST = 10.0
# farthest shift, as a share of the diameter
SHIFT_SHARE = 0.1
# what the batch is made of unless it is given
IMAGES_OF_CLASS = 20
LEAST_BATCH = 300


def classify(config: Config, job: Job) -> None:
    """Run the whole verb.

    Raises:
        InputError: if there are fewer particles than classes, boxes differ, or the diameter or the resolution does not fit.
    """
    particles = checked_particles(read_particles(config.particles, config.images), config)
    grid = particles.grid
    layout = finest_layout(grid, config.resolution)
    diameter = config.diameter or min(found_diameter(particles), grid.extent - EDGE)
    check_diameter(config.diameter, grid)
    reach = SHIFT_SHARE * diameter if config.shift_range is None else config.shift_range
    optics = "no CTF: images are taken as they are" if particles.optics is None else "CTF"
    groups = len(particles.group.unique())
    job.log(
        f"{particles.count} particles of {grid.box_size} px at {grid.pixel_size:g} Å/px, {optics}"
        + (f", {groups} optics groups" if groups > 1 else "")
    )
    job.log(
        f"diameter {diameter:.0f} Å ({'given' if config.diameter else 'found in the images'}), shifts up to {reach:.0f} Å"
    )
    job.announce_memory(
        planned_memory(particles, layout, diameter, config), "coefficients of all images and sums of all classes"
    )
    plan = Plan(
        classes=config.classes,
        diameter=diameter,
        reach=reach,
        mask=soft_circle(grid.box_size, diameter / 2 / grid.pixel_size, EDGE / grid.pixel_size),
        first_band=first_band(grid, diameter, layout),
        rounds=config.rounds,
        seed=config.seed,
        sign={"bright": 1, "dark": -1, "auto": 0}[config.contrast],
    )
    with job.progress(particles.count, "reading") as progress:
        images = read_images(particles, layout, image_mask(grid, diameter, reach), progress.advance)
    batch_size = config.batch_size or max(LEAST_BATCH, IMAGES_OF_CLASS * config.classes)
    found = learn(images, plan, batch_size, job, config.checkpoint_every)
    found, quality = best_first(found, judge(found, images, plan, config.reject))
    sign = plan.sign or brightness(found.progress.sums, layout.band, diameter / grid.extent)
    averages = found.progress.averages * sign
    job.log(f"particles are {'bright' if sign > 0 else 'dark'} in the images ({config.contrast})")
    write_outputs(job.outputs, particles, averages, found, quality)
    if config.report:
        from frazil.classify.report import write_report

        write_report(job, particles, averages, found, quality, diameter)
    kept, good = int(quality.good.sum()), quality.good_class
    best = float(quality.resolution[good].median()) if bool(good.any()) else float("inf")
    job.metric(good_particles=kept, good_classes=int(good.sum()), median_resolution=round(best, 3))
    job.made(
        job.outputs / "good.star",
        f"{kept} of {particles.count} particles are good, in {int(good.sum())} of {config.classes} classes of"
        f" {best:.1f} Å (median)",
        f"frazil reconstruct {shlex.quote(str(job.outputs / 'good.star'))}",
    )


def checked_particles(particles: Particles, config: Config) -> Particles:
    """The stack, if it can be classified.

    Raises:
        InputError: if it cannot.
    """
    if particles.count < max(2, config.classes):
        raise InputError(
            f"{particles.count} particles for {config.classes} classes",
            where=config.particles,
            remedy=f"give --classes, {max(1, particles.count // 20)} for example",
        )
    _ = particles.grid  # says in words of its own when boxes differ
    return particles


def finest_layout(grid: Grid, resolution: float) -> HalfPlane:
    """The coefficients out to a resolution, or to the finest shell.

    Raises:
        InputError: if the resolution is too low for the box.
    """
    band = min(grid.last_shell, int(grid.shell_of(resolution)))
    if band < 3:
        raise InputError(
            f"{resolution:g} Å is hardly finer than the image, which is {grid.extent:g} Å wide",
            where="--resolution",
            remedy=f"give {grid.extent / 6:.0f} or less",
        )
    return grid.half_plane(band)


def check_diameter(diameter: float | None, grid: Grid) -> None:
    """Refuse a particle that is larger than its image or smaller than a few pixels."""
    if diameter is not None and not 4 * grid.pixel_size <= diameter <= grid.extent:
        raise InputError(
            f"a diameter of {diameter:g} Å does not fit images of {grid.box_size} px of {grid.pixel_size:g} Å",
            where="--diameter",
            remedy=f"give {4 * grid.pixel_size:.0f} to {grid.extent:.0f} Å",
        )


def first_band(grid: Grid, diameter: float, layout: HalfPlane) -> int:
    """The shell that the search begins with."""
    return max(3, min(layout.band, int(grid.shell_of(max(FIRST_DETAIL * diameter, FINEST_FIRST)))))


def planned_memory(particles: Particles, layout: HalfPlane, diameter: float, config: Config) -> int:
    """Bytes at the peak: coefficients of images, sums and tables of classes, views of all classes, a chunk of scores."""
    sums = ClassSums.memory(config.classes, layout.band)
    angles = round(np.pi * diameter / 2 * layout.band / particles.grid.extent / COARSENESS) + 6
    views = 4 * config.classes * angles * layout.count * 8
    return coarse_size(particles.count, layout) + 4 * sums + views + GIB // 2


def best_first(found: Classes, quality: Quality) -> tuple[Classes, Quality]:
    """The classes in the order of their score, those without a particle last."""
    order = torch.where(quality.count > 0, quality.score, -torch.inf).argsort(descending=True, stable=True)
    place = order.argsort()
    sums = ClassSums(*(values[:, order] for values in found.progress.sums.tensors().values()))
    progress = replace(found.progress, sums=sums, averages=found.progress.averages[order])
    alignment = replace(found.alignment, chosen=place[found.alignment.chosen])
    names = ("count", "resolution", "sharpness", "score", "good_class")
    sorted_quality = replace(quality, **{name: getattr(quality, name)[order] for name in names})
    return replace(found, progress=progress, alignment=alignment), sorted_quality


def write_outputs(
    folder: Path, particles: Particles, averages: Float[Tensor, "classes n n"], found: Classes, quality: Quality
) -> None:
    """Averages, their table, and the particles: all, good ones, bad ones."""
    stack = folder / "classes.mrcs"
    write_stack(stack, averages, particles.grid.pixel_size)
    write_star(folder / "classes.star", classes_table(quality, folder), "version 30001")
    extra = particle_columns(particles, found.alignment, quality)
    write_particles_star(particles, folder / "particles.star", extra=extra)
    for name, rows in (("good", quality.good), ("bad", ~quality.good)):
        chosen = torch.nonzero(rows)[:, 0].numpy()
        part = {column: values[chosen] for column, values in extra.items()}
        write_particles_star(particles[chosen], folder / f"{name}.star", extra=part)


def classes_table(quality: Quality, folder: Path) -> Table:
    """What is known of each class, as RELION lists classes; our own columns are named after us."""
    count = len(quality.count)
    columns: dict[str, np.ndarray | list[str]] = {
        "rlnReferenceImage": [f"{number:06d}@classes.mrcs" for number in range(1, count + 1)],
        "rlnClassNumber": np.arange(1, count + 1),
        "rlnClassDistribution": rounded(quality.count / quality.count.sum()),
        "rlnEstimatedResolution": rounded(quality.resolution),
        "frazilClassCount": quality.count.numpy(),
        "frazilClassSharpness": rounded(quality.sharpness),
        "frazilClassScore": rounded(quality.score),
        "frazilClassGood": quality.good_class.long().numpy(),
    }
    return Table((Block("model_classes", columns, count),), folder / "classes.star")


def particle_columns(particles: Particles, alignment: Alignment, quality: Quality) -> dict[str, np.ndarray]:
    """Class, alignment and score of every particle. A pose in three dimensions that the input has is left as it is."""
    angle = torch.deg2rad(alignment.angle.double())
    rotation = torch.eye(3, dtype=torch.float64).repeat(len(angle), 1, 1)
    rotation[:, 0, 0] = rotation[:, 1, 1] = angle.cos()
    rotation[:, 1, 0], rotation[:, 0, 1] = angle.sin(), -angle.sin()
    rot, _, psi, x, y = Pose(rotation, alignment.shift.double()).to_relion()
    psi = (rot + psi + 180) % 360 - 180
    named = {"Psi": rounded(psi), "OriginXAngst": rounded(x), "OriginYAngst": rounded(y)}
    columns = {"rlnClassNumber": (alignment.chosen + 1).numpy()}
    columns |= {f"frazilClass{name}": values for name, values in named.items()}
    columns["frazilParticleScore"] = rounded(quality.particle_score)
    if particles.pose is None:
        columns |= {"rlnAnglePsi": named["Psi"]}
        columns |= {f"rln{name}": named[name] for name in ("OriginXAngst", "OriginYAngst")}
    return columns


def rounded(values: Tensor) -> np.ndarray:
    """Six decimals; a number that is not finite as RELION writes it."""
    return np.round(torch.nan_to_num(values.double(), 999.0, 999.0, -999.0).numpy(), 6)

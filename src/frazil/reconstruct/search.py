"""Poses of all particles from nothing: starts, the best of them, and every particle against it.

A start that images it never saw explain best is followed to the finest resolution of the search. Then every image keeps the
views of the grid that fit it best, each is refined off the grid (`inference.local_refinement`), and the volumes are made anew
of the likeliest: a few times over. What comes of it is a pose (and, of several molecules, a class) for every particle, and
the volumes at the search's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.stack import Particles
from frazil.engine.checkpoint import load_checkpoint, part, save_checkpoint, under
from frazil.engine.job import Job
from frazil.errors import InputError
from frazil.inference.coarse_images import coarse_size, read_coarse
from frazil.inference.matching import ViewSums, shell_sums, shift_phases
from frazil.numerics.symmetry import point_group
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.ab_initio import Guess, Level, Search, judged, random_guess, run_rounds
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.diameter import estimated_diameter
from frazil.reconstruct.placing import Placed, Placer

# images that starts and the volumes learn from at most; the others are only compared with the end
MOST_IMAGES = 20_000
# images that no start may see, at most, and as a share
MOST_HELD, HELD_SHARE = 400, 0.2
# symmetry hides coarse features: what has this many operations or more looks like a sphere at the resolution below, Å
HIGH_SYMMETRY, FIRST_RESOLUTION = 12, 24.0
# the most that a molecule fills of the box, and what is taken where no rim is to be seen
SHARE_OF_BOX = 0.9
# rounds at the finest resolution for the best start
POLISHING = 8
# times that volumes are made of all images and images compared with them
SETTLING = 3


@final
@dataclass(frozen=True)
class Found:
    """What a search found; a row for each particle.

    Attributes:
        placed: the particles, in the order of the stack. volumes: one for each molecule, as fine as the search went.
        evidence: of every start on images that none has seen. diameter: of a sphere around the molecule, Å.
    """

    placed: Placed
    volumes: Float[Tensor, "molecules n n n"]
    evidence: tuple[float, ...]
    diameter: float


def search_poses(particles: Particles, config: Config, job: Job) -> Found:
    """Search the poses of a stack; the first process does it for all.

    Raises:
        InputError: if the images differ in box or pixel size, or there are too few.
    """
    if particles.count < 20 * config.search.classes:
        raise InputError(
            f"{particles.count} particles are too few to find {config.search.classes} molecule(s) from nothing",
            where=particles.path,
            remedy="give more particles, or --poses given",
        )
    searched: Found = job.processes.from_first(lambda: _Searcher(particles, config, job).run())
    return searched


@final
class _Searcher:
    """Carries out a search."""

    def __init__(self, particles: Particles, config: Config, job: Job) -> None:
        self.particles, self.settings, self.job, self.seed = particles, config.search, job, config.seed
        self.grid = particles.grid
        self.noise = measured_noise(particles)
        self.band = min(self.grid.last_shell, round(self.grid.shell_of(self.settings.resolution)))
        self.plane = self.grid.half_plane(self.band)
        generator = torch.Generator().manual_seed(self.seed)
        self.rows = torch.randperm(particles.count, generator=generator)[:MOST_IMAGES].sort().values
        job.announce_memory(coarse_size(len(self.rows), self.plane) * 1.5 + 1e9, "images at low resolution, views")
        if job.device != "cpu":
            job.log("poses are searched on the CPU")
        with job.progress(len(self.rows), "reading images") as progress:
            self.images = read_coarse(particles, self.grid, self.plane, self.noise, self.rows, progress.advance)
        self.diameter = self._diameter(config, generator)
        self.search = search_of(particles, config, self.diameter)
        self.final = self.search.level(self.settings.resolution)
        held = min(MOST_HELD, int(HELD_SHARE * len(self.rows)))
        mixed = torch.randperm(len(self.rows), generator=generator)
        self.placer = Placer(particles, self.noise, self.final)
        self.held, self.pool = mixed[:held], mixed[held:]
        # the map of known poses is a start better than any random one, unless there are several molecules
        self.known = None if config.ignore_poses or config.search.classes > 1 else particles.pose
        self.path: Path = job.checkpoints / "search.safetensors"

    def _diameter(self, config: Config, generator: torch.Generator) -> float:
        """That of the settings, or what the images say of it."""
        if self.settings.diameter is not None:
            return self.settings.diameter
        widest = SHARE_OF_BOX * self.grid.extent
        level = search_of(self.particles, config, widest).level(self.settings.resolution)
        found = estimated_diameter(level, self.images, generator)
        said = "no rim is to be seen" if found is None else f"about {found:.0f} Å across with a margin"
        self.job.log(f"the molecule: {said} (--search.diameter)")
        return widest if found is None else min(found, widest)

    @property
    def first(self) -> Level:
        """The level that starts begin at."""
        coarse = len(self.search.symmetry) < HIGH_SYMMETRY and self.final.resolution < FIRST_RESOLUTION
        return self.search.level(FIRST_RESOLUTION) if coarse else self.final

    def run(self) -> Found:
        """Starts, the best of them, all particles."""
        if self.known is not None:
            self.job.log("the search begins with the map of the poses in the table")
            return self._finished(self._made(self.known[self.rows], torch.zeros_like(self.rows), 1), ())
        guesses, evidence = self._started()
        best = max(range(len(evidence)), key=evidence.__getitem__)
        told = ", ".join(f"{value:.2f}" for value in sorted(evidence, reverse=True))
        self.job.log(f"log evidence of unseen images after each start: {told}")
        settings, level = self.settings, self.final
        generator = torch.Generator().manual_seed(self.seed + 7919 * (best + 1))
        with self.job.progress(POLISHING, "finer", "rounds") as progress:
            images = settings.images * settings.classes
            guess = run_rounds(
                level, self.images[self.pool], guesses[best].at(level), POLISHING, images, generator, cold=False,
                advance=progress.advance,
            )  # fmt: skip
        last = judged(level, self.images[self.held], guess)
        self.job.metric(evidence_of_starts=round(max(evidence), 4), evidence=round(last, 4))
        return self._finished(guess.volumes, tuple(evidence))

    def _finished(self, volumes: Tensor, evidence: tuple[float, ...]) -> Found:
        volumes = self._settled(volumes)
        return Found(self._all(volumes), volumes, evidence, self.diameter)

    # ------------------------------------------------------------------------------------------------------- starts

    def _started(self) -> tuple[list[Guess], list[float]]:
        settings, level = self.settings, self.first
        guesses, evidence = self._kept()
        seen, unseen = (level.cut(self.images[rows]) for rows in (self.pool, self.held))
        if guesses:
            self.job.log(f"going on after start {len(guesses)}")
        total = settings.starts * settings.rounds
        with self.job.progress(total, f"starts at {level.resolution:.0f} Å", "rounds") as progress:
            progress.advance(len(guesses) * settings.rounds)
            for number in range(len(guesses), settings.starts):
                generator = torch.Generator().manual_seed(self.seed + 104_729 * (number + 1))
                images = settings.images * settings.classes
                guess = random_guess(level, seen, settings.classes, settings.images, generator)
                guess = run_rounds(
                    level, seen, guess, settings.rounds, images, generator, cold=True, advance=progress.advance
                )
                guesses.append(guess)
                evidence.append(judged(level, unseen, guess))
                self.job.metric(start=number, evidence=round(evidence[-1], 4))
                self._save(guesses, evidence)
        return guesses, evidence

    def _save(self, guesses: list[Guess], evidence: list[float]) -> None:
        tensors: dict[str, Tensor] = {}
        for number, guess in enumerate(guesses):
            tensors |= under(str(number), {"volumes": guess.volumes, "noise": guess.noise, "share": guess.share})
        told: dict[str, Any] = {"evidence": evidence, "metrics": self.job.metrics.text()}
        save_checkpoint(self.path, tensors, told)

    def _kept(self) -> tuple[list[Guess], list[float]]:
        if not (self.job.resumed and self.path.is_file()):
            return [], []
        tensors, told = load_checkpoint(self.path)
        self.job.metrics.restore(told["metrics"])
        guesses: list[Guess] = []
        for number in range(len(told["evidence"])):
            own = part(str(number), tensors)
            guesses.append(Guess(own["volumes"], None, None, own["noise"], own["share"]))
        return guesses, list(told["evidence"])

    # -------------------------------------------------------------------------------------------------- all particles

    def _settled(self, volumes: Tensor) -> Tensor:
        """The volumes of images placed off the grid, and again."""
        for number in range(SETTLING):
            with self.job.progress(len(self.rows), f"placing images ({number + 1} of {SETTLING})") as progress:
                found = self.placer.placed(self.images, self.rows, volumes, advance=progress.advance)
            self.job.log(f"log likelihood ratio per image {float(found.likelihood.mean()):.2f}")
            volumes = self._made(found.pose, found.component, len(volumes))
        return volumes

    def _made(self, pose: Pose, component: Tensor, molecules: int) -> Tensor:
        """Volumes of the images of the search in their poses."""
        low, images = self.final.low, self.images
        turned = shift_phases(pose.shift / self.grid.pixel_size, self.plane)
        product = torch.view_as_complex(images.values) * images.transfer * torch.view_as_complex(turned)
        weight = shell_sums(images.transfer.square(), low.plane) / torch.bincount(low.plane.shell)
        made: list[Tensor] = []
        for molecule in range(molecules):
            own = component == molecule
            sums = ViewSums(torch.view_as_real(product[own]).contiguous(), weight[own], torch.ones(int(own.sum())))
            made.append(low.volumes(*low.sums(sums, pose.rotation[own], 1)))
        return torch.cat(made)

    def _all(self, volumes: Tensor) -> Placed:
        """Every particle of the stack against the volumes; those beyond the search's own are read in pieces."""
        searched = torch.zeros(self.particles.count, dtype=torch.bool)
        searched[self.rows] = True
        rest = torch.nonzero(~searched)[:, 0]
        with self.job.progress(self.particles.count, "placing all particles") as progress:
            order = [self.rows]
            parts = [self.placer.placed(self.images, self.rows, volumes, advance=progress.advance)]
            for rows in rest.split(MOST_IMAGES) if len(rest) else ():
                images = read_coarse(self.particles, self.grid, self.plane, self.noise, rows)
                parts.append(self.placer.placed(images, rows, volumes, advance=progress.advance))
                order.append(rows)
        return Placed.joined(parts)[torch.cat(order).argsort()]


def search_of(particles: Particles, config: Config, diameter: float, share_of_range: float = 1.0) -> Search:
    """What a stack and the settings say of a search for a molecule of a diameter; of the range of shifts so large a share."""
    settings = config.search
    reach = share_of_range * settings.shift_range
    return Search(particles.grid, point_group(config.symmetry), diameter / 2, settings.lowest_resolution, reach)

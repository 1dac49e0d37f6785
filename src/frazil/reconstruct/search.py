"""Poses of all particles from nothing: starts, the best of them, and every particle against it.

A start that images it never saw explain best is followed to the finest resolution of the search. Then every image keeps the
views of the grid that fit it best, each is refined off the grid (`inference.local_refinement`), and the volumes are made anew
of the likeliest: a few times over. What comes of it is a pose (and, of several molecules, a class) for every particle, and
the volumes at the search's resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.engine.checkpoint import load_checkpoint, part, save_checkpoint, under
from frazil.engine.job import Job
from frazil.errors import InputError
from frazil.inference.coarse_images import coarse_size, read_coarse
from frazil.inference.local_refinement import PriorWidths, refine_poses
from frazil.inference.matching import CoarseImages, Views, ViewSums, likeliest_views, shell_sums, shift_phases
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.rotation_grid import half_turned
from frazil.numerics.symmetry import point_group
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.ab_initio import Guess, Level, Search, judged, random_guess, run_rounds
from frazil.reconstruct.basis_job import measured_noise

# images that starts and the volumes learn from at most; the others are only compared with the end
MOST_IMAGES = 20_000
# images that no start may see, at most, and as a share
MOST_HELD, HELD_SHARE = 400, 0.2
# symmetry hides coarse features: what has this many operations or more looks like a sphere at the resolution below, Å
HIGH_SYMMETRY, FIRST_RESOLUTION = 12, 24.0
# rounds at the finest resolution for the best start
POLISHING = 8
# views of an image that are refined off the grid, and how far off, degrees
CANDIDATES, OFF_GRID = 8, 8.0
# times that volumes are made of all images and images compared with them
SETTLING = 3
# images that a thread refines at once
AT_ONCE = 128


@final
@dataclass(frozen=True)
class Found:
    """What a search found; a row for each particle.

    Attributes:
        pose: of the particles. component: the molecule that each is of, 0 where there is one. likelihood: log likelihood
            ratio of the image to one of noise alone. volumes: one for each molecule, as fine as the search went.
        evidence: of every start on images that none has seen.
    """

    pose: Pose
    component: Int[Tensor, " particles"]
    likelihood: Float[Tensor, " particles"]
    volumes: Float[Tensor, "molecules n n n"]
    evidence: tuple[float, ...]


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
            images = read_coarse(particles, self.grid, self.plane, self.noise, self.rows, progress.advance)
        diameter = self.settings.diameter or 0.84 * self.grid.extent
        self.search = Search(
            images, self.grid, point_group(config.symmetry), diameter / 2,
            self.settings.lowest_resolution, self.settings.shift_range,
        )  # fmt: skip
        self.final = self.search.level(self.settings.resolution)
        held = min(MOST_HELD, int(HELD_SHARE * len(self.rows)))
        mixed = torch.randperm(len(self.rows), generator=generator)
        self.held, self.pool = mixed[:held], mixed[held:]
        # the map of known poses is a start better than any random one, unless there are several molecules
        self.known = None if config.ignore_poses or config.search.classes > 1 else particles.pose
        self.path: Path = job.checkpoints / "search.safetensors"

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
                level, guesses[best].at(level), POLISHING, images, self.pool, generator, cold=False,
                advance=progress.advance,
            )  # fmt: skip
        self.job.metric(evidence_of_starts=round(max(evidence), 4), evidence=round(judged(level, guess, self.held), 4))
        return self._finished(guess.volumes, tuple(evidence))

    def _finished(self, volumes: Tensor, evidence: tuple[float, ...]) -> Found:
        volumes = self._settled(volumes)
        pose, component, likelihood = self._all(volumes)
        return Found(pose, component, likelihood, volumes, evidence)

    # ------------------------------------------------------------------------------------------------------- starts

    def _started(self) -> tuple[list[Guess], list[float]]:
        settings, level = self.settings, self.first
        guesses, evidence = self._kept(level)
        if guesses:
            self.job.log(f"going on after start {len(guesses)}")
        total = settings.starts * settings.rounds
        with self.job.progress(total, f"starts at {level.resolution:.0f} Å", "rounds") as progress:
            progress.advance(len(guesses) * settings.rounds)
            for number in range(len(guesses), settings.starts):
                generator = torch.Generator().manual_seed(self.seed + 104_729 * (number + 1))
                images = settings.images * settings.classes
                guess = random_guess(level, settings.classes, settings.images, generator)
                guess = run_rounds(
                    level, guess, settings.rounds, images, self.pool, generator, cold=True, advance=progress.advance
                )
                guesses.append(guess)
                evidence.append(judged(level, guess, self.held))
                self.job.metric(start=number, evidence=round(evidence[-1], 4))
                self._save(guesses, evidence)
        return guesses, evidence

    def _save(self, guesses: list[Guess], evidence: list[float]) -> None:
        tensors: dict[str, Tensor] = {}
        for number, guess in enumerate(guesses):
            tensors |= under(str(number), {"volumes": guess.volumes, "noise": guess.noise, "share": guess.share})
        told: dict[str, Any] = {"evidence": evidence, "metrics": self.job.metrics.text()}
        save_checkpoint(self.path, tensors, told)

    def _kept(self, level: Level) -> tuple[list[Guess], list[float]]:
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
                pose, component, likelihood = self._placed(self.final.images, self.rows, volumes, progress.advance)
            self.job.log(f"log likelihood ratio per image {float(likelihood.mean()):.2f}")
            volumes = self._made(pose, component, len(volumes))
        return volumes

    def _made(self, pose: Pose, component: Tensor, molecules: int) -> Tensor:
        """Volumes of the images of the search in their poses."""
        low, images = self.final.low, self.final.images
        turned = shift_phases(pose.shift / self.grid.pixel_size, self.plane)
        product = torch.view_as_complex(images.values) * images.transfer * torch.view_as_complex(turned)
        weight = shell_sums(images.transfer.square(), low.plane) / torch.bincount(low.plane.shell)
        made: list[Tensor] = []
        for molecule in range(molecules):
            own = component == molecule
            sums = ViewSums(torch.view_as_real(product[own]).contiguous(), weight[own], torch.ones(int(own.sum())))
            made.append(low.volumes(*low.sums(sums, pose.rotation[own], 1)))
        return torch.cat(made)

    def _all(self, volumes: Tensor) -> tuple[Pose, Tensor, Tensor]:
        """Every particle of the stack against the volumes; those beyond the search's own are read in pieces."""
        parts: list[tuple[Tensor, Pose, Tensor, Tensor]] = []
        searched = torch.zeros(self.particles.count, dtype=torch.bool)
        searched[self.rows] = True
        rest = torch.nonzero(~searched)[:, 0]
        with self.job.progress(self.particles.count, "placing all particles") as progress:
            parts.append((self.rows, *self._placed(self.final.images, self.rows, volumes, progress.advance)))
            for rows in rest.split(MOST_IMAGES):
                if len(rows) == 0:
                    continue
                images = read_coarse(self.particles, self.grid, self.plane, self.noise, rows)
                parts.append((rows, *self._placed(images, rows, volumes, progress.advance)))
        rows = torch.cat([entry[0] for entry in parts])
        place = rows.argsort()
        pose = Pose(*(torch.cat([getattr(entry[1], n) for entry in parts])[place] for n in ("rotation", "shift")))
        component, likelihood = (torch.cat([entry[n] for entry in parts])[place] for n in (2, 3))
        return pose, component, likelihood

    def _placed(
        self, images: CoarseImages, rows: Tensor, volumes: Tensor, advance: Callable[[int], None]
    ) -> tuple[Pose, Tensor, Tensor]:
        """The best pose and molecule of images: the likeliest views of the grid, refined off it."""
        level, low = self.final, self.final.low
        rotations = level.rotations()
        views = Views(low.views(volumes, rotations))
        gain = level.used[low.plane.shell]
        number, shift, _ = likeliest_views(
            images.scaled(gain), views, level.cells(), low.plane, CANDIDATES, shift_prior=level.shift_prior()
        )
        half, view = number >= views.count, number % views.count
        molecule, turn = view // len(rotations), rotations[view % len(rotations)]
        turn = torch.where(half[..., None, None], half_turned(turn), turn)
        refine = _OffGrid(self, volumes, images, Pose(turn, level.shifts[shift]), molecule, rows)
        return refine.run(advance)

    def optics(self, rows: Tensor) -> Optics | None:
        """Those of some particles."""
        return None if self.particles.optics is None else self.particles.optics[rows]


@final
@dataclass(frozen=True)
class _OffGrid:
    """Candidates of images and what refines them: poses (images, candidates), the molecule of each."""

    searcher: _Searcher
    volumes: Tensor
    images: CoarseImages
    pose: Pose
    molecule: Tensor
    rows: Tensor

    def run(self, advance: Callable[[int], None]) -> tuple[Pose, Tensor, Tensor]:
        """The likeliest of each image's candidates after refinement: pose, molecule, log likelihood ratio."""
        searcher = self.searcher
        tables = [searcher.final.low.table(volume[None]) for volume in self.volumes]
        with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
            parts = []
            for result in pool.map(lambda some: self._some(some, tables), torch.arange(len(self.rows)).split(AT_ONCE)):
                parts.append(result)
                advance(len(result[2]))
        rotation, shift, likelihood, best = (torch.cat(column) for column in zip(*parts, strict=True))
        return Pose(rotation, shift), self.molecule.gather(1, best[:, None])[:, 0], likelihood

    def _some(self, some: Tensor, tables: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        searcher, level = self.searcher, self.searcher.final
        # half a sum of squares is the exponent there, a sum of squares here
        used = level.used[searcher.plane.shell] * 2**0.5
        gain = searcher.noise.rsqrt()[:, searcher.plane.shell] * used
        prior = PriorWidths(rotation=OFF_GRID, shift=level.resolution / 2)
        molecule, pose = self.molecule[some], self.pose[some]
        score = torch.zeros(molecule.shape, dtype=torch.float64)
        rotation, shift = torch.empty_like(pose.rotation), torch.empty_like(pose.shift)
        for number, table in enumerate(tables):
            image, candidate = torch.nonzero(molecule == number, as_tuple=True)
            if len(image) == 0:
                continue
            rows = self.rows[some[image]]
            found = refine_poses(
                self.images.values[some[image]] * used[:, None], pose[image, candidate][:, None],
                searcher.optics(rows), searcher.grid, searcher.plane, gain, searcher.particles.group[rows],
                table, level.low.layout, prior,
            )  # fmt: skip
            score[image, candidate] = found.log_likelihood[:, 0]
            rotation[image, candidate] = found.pose.rotation[:, 0].float()
            shift[image, candidate] = found.pose.shift[:, 0].float()
        best = score.argmax(dim=1)
        row = torch.arange(len(some))
        return rotation[row, best], shift[row, best], score[row, best].float(), best


def with_poses(particles: Particles, found: Found) -> Particles:
    """The particles in the poses that were found."""
    return particles.given(pose=found.pose)

"""Poses of all particles from nothing: starts, the best of them, and every particle against it.

A start that images it never saw explain best is followed to the finest resolution of the search. Then every image keeps the
views of the grid that fit it best, each is refined off the grid (`inference.local_refinement`), and the volumes are made anew
of the likeliest: a few times over. What comes of it is a pose (and, of several molecules, a class) for every particle, and
the volumes at the search's resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
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
from frazil.inference.low_volume import LEAST_SIGNAL
from frazil.inference.matching import CoarseImages, ViewSums, shell_sums, shift_phases
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.symmetry import point_group
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.ab_initio import (
    MOSTLY_SIGNAL,
    Guess,
    Level,
    Search,
    continued,
    judged,
    random_guess,
    run_rounds,
)
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.centring import Centring, moved
from frazil.reconstruct.diameter import estimated_diameter
from frazil.reconstruct.mixture import followed, mixture
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
# times that volumes are made of all images, and images compared with them, at the finest resolution
SETTLING = 3
# several molecules: they are told apart at the first resolution, Å, and followed to the others; views are this near to any
# rim, in units of the resolution, at the first and later; particles are so far off centre, Å, at most after first and last
APART, FOLLOWED = 40.0, (30.0, 24.0)
NEAR_FIRST, NEAR = 0.7, 0.6
CENTRED, FOUND = 15.0, 10.0
# times that every image is followed at least, in all
TURNS = 6
# from one resolution to the next finer one, at most; products that comparing an image everywhere may take
STEP, EVERYWHERE = 1.45, 6e7


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

    def save(self, path: Path, job: Job) -> None:
        """Write it, with the metrics that the job has told so far."""
        placed = self.placed
        tensors = {"rotation": placed.pose.rotation, "shift": placed.pose.shift, "component": placed.component}
        tensors |= {"likelihood": placed.likelihood, "volumes": self.volumes}
        told = {"evidence": self.evidence, "diameter": self.diameter, "metrics": job.metrics.text()}
        save_checkpoint(path, tensors, told)

    @staticmethod
    def load(path: Path, job: Job) -> Found:
        """What `save` wrote; the job's metrics are what they were then."""
        tensors, told = load_checkpoint(path)
        job.metrics.restore(told["metrics"])
        job.log("going on after the search")
        pose = Pose(tensors["rotation"], tensors["shift"])
        placed = Placed(pose, tensors["component"], tensors["likelihood"])
        return Found(placed, tensors["volumes"], tuple(told["evidence"]), told["diameter"])


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

    size = coarse_size(min(particles.count, MOST_IMAGES), _plane(particles, config))
    job.announce_memory(size * 1.5 + 1e9, "images at low resolution, views")

    def search() -> Found:
        path = job.checkpoints / "found.safetensors"
        if job.resumed and path.is_file():
            return Found.load(path, job)
        found = _Searcher(particles, config, job).run()
        found.save(path, job)
        return found

    searched: Found = job.processes.from_first(search)
    return searched


def _plane(particles: Particles, config: Config) -> HalfPlane:
    """The coefficients that a search looks at."""
    grid = particles.grid
    return grid.half_plane(min(grid.last_shell, round(grid.shell_of(config.search.resolution))))


@final
class _Searcher:
    """Carries out a search."""

    def __init__(self, particles: Particles, config: Config, job: Job) -> None:
        self.particles, self.settings, self.job, self.seed = particles, config.search, job, config.seed
        self.grid = particles.grid
        self.noise = measured_noise(particles)
        self.plane = _plane(particles, config)
        generator = torch.Generator().manual_seed(self.seed)
        self.rows = torch.randperm(particles.count, generator=generator)[:MOST_IMAGES].sort().values
        if job.device != "cpu":
            job.log("poses are searched on the CPU")
        self.centring: Centring | None = None
        with job.progress(len(self.rows), "reading images") as progress:
            self.images, self.centre = self._read(self.rows, progress.advance)
        self.diameter = self._diameter(config, generator)
        self.search = search_of(particles, config, self.diameter)
        self.levels = self._levels()
        self.several = self.settings.classes > 1
        self.first = (
            self.search.level(max(APART, self.settings.resolution), NEAR_FIRST) if self.several else self.levels[0]
        )
        held = min(MOST_HELD, int(HELD_SHARE * len(self.rows)))
        mixed = torch.randperm(len(self.rows), generator=generator)
        self.held, self.pool = mixed[:held], mixed[held:]
        # the map of known poses is a start better than any random one, unless there are several molecules
        ignored = config.ignore_poses and config.poses != "amortised"
        self.known = None if ignored or config.search.classes > 1 else particles.pose
        self.path: Path = job.checkpoints / "search.safetensors"

    def _read(
        self, rows: Tensor, advance: Callable[[int], None] = lambda count: None
    ) -> tuple[CoarseImages, Float[Tensor, "images 2"]]:
        """Images of the stack, and by how much, in Å, they were moved to be centred."""
        images = read_coarse(self.particles, self.grid, self.plane, self.noise, rows, advance)
        return self._centred(images)

    def _centred(self, images: CoarseImages) -> tuple[CoarseImages, Float[Tensor, "images 2"]]:
        if self.centring is None:
            return images, torch.zeros(len(images), 2)
        centre = self.centring.centres(images)
        return moved(images, centre, self.plane, self.grid.pixel_size), centre

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

    def _levels(self) -> list[Level]:
        """From where starts begin to the finest."""
        finest = self.search.level(self.settings.resolution)
        coarse = len(self.search.symmetry) < HIGH_SYMMETRY and finest.resolution < FIRST_RESOLUTION
        steps = math.ceil(math.log(FIRST_RESOLUTION / finest.resolution) / math.log(STEP)) if coarse else 0
        factor = (FIRST_RESOLUTION / finest.resolution) ** (1 / steps) if steps else 1.0
        several = {"reach": NEAR} if self.settings.classes > 1 else {}
        return [self.search.level(FIRST_RESOLUTION / factor**step, **several) for step in range(steps)] + [finest]

    def _cheap(self, level: Level) -> bool:
        """Whether all images may be compared with views from everywhere.

        Several molecules are told apart only there: few images of them may take longer.
        """
        longer = MOST_IMAGES / len(self.rows) if self.settings.classes > 1 else 1.0
        return level.work * self.settings.classes <= EVERYWHERE * longer

    def run(self) -> Found:
        """Starts, the best of them, all particles."""
        if self.known is not None:
            self.job.log("the search begins with the map of the poses there are")
            nothing = torch.zeros(len(self.rows))
            known = Placed(self.known[self.rows], nothing.to(torch.int64), nothing)
            return self._finished(self._made(known, 1, self.levels[0]), ())
        guesses, evidence = self._started()
        if not self.several:
            unseen = self.first.cut(self.images[self.held])
            guesses, evidence = continued(guesses, evidence, self._going_on, partial(judged, self.first, unseen))
        best = max(range(len(evidence)), key=evidence.__getitem__)
        told = ", ".join(f"{value:.2f}" for value in sorted(evidence, reverse=True))
        self.job.log(f"log evidence of unseen images after each start: {told}")
        if self.several:
            self.job.metric(evidence_of_starts=round(max(evidence), 4))
            return self._finished(self._followed(guesses[best]).volumes, tuple(evidence))
        level = next(level for level in reversed(self.levels) if self._cheap(level) or level is self.levels[0])
        generator = torch.Generator().manual_seed(self.seed + 7919 * (best + 1))
        seen, unseen = (level.cut(self.images[rows]) for rows in (self.pool, self.held))
        with self.job.progress(POLISHING, f"the best start at {level.resolution:.0f} Å", "rounds") as progress:
            begin, count = guesses[best].at(level), self.settings.images_of()
            guess = run_rounds(level, seen, begin, POLISHING, count, generator, cold=False, advance=progress.advance)
        last = judged(level, unseen, guess)
        self.job.metric(evidence_of_starts=round(max(evidence), 4), evidence=round(last, 4))
        return self._finished(guess.volumes, tuple(evidence))

    def _finished(self, volumes: Tensor, evidence: tuple[float, ...]) -> Found:
        volumes, placed = self._settled(volumes)
        return Found(self._all(volumes, placed), volumes, evidence, self.diameter)

    # ------------------------------------------------------------------------------------------------------- starts

    def _started(self) -> tuple[list[Guess], list[float]]:
        settings, level = self.settings, self.first
        guesses, evidence = self._kept()
        seen, unseen = (level.cut(self.images[rows]) for rows in (self.pool, self.held))
        if guesses:
            self.job.log(f"going on after start {len(guesses)}")
        starts = settings.starts_of()
        rounds = settings.rounds_of()
        with self.job.progress(starts * rounds, f"starts at {level.resolution:.0f} Å", "rounds") as progress:
            progress.advance(len(guesses) * rounds)
            for number in range(len(guesses), starts):
                generator = torch.Generator().manual_seed(self.seed + 104_729 * (number + 1))
                guess = self._start(level, seen, generator, progress.advance)
                guesses.append(guess)
                evidence.append(judged(level, unseen, guess))
                self.job.metric(start=number, evidence=round(evidence[-1], 4))
                self._save(guesses, evidence)
        return guesses, evidence

    def _going_on(self, guesses: dict[int, Guess], turn: int) -> dict[int, Guess]:
        """Some starts after as many rounds again."""
        level, rounds, count = self.first, self.settings.rounds_of(), self.settings.images_of()
        seen, found = level.cut(self.images[self.pool]), {}
        said = f"the best of them, {len(guesses)}" if len(guesses) > 1 else "the best of them"
        with self.job.progress(len(guesses) * rounds, said, "rounds") as progress:
            for number, guess in guesses.items():
                generator = torch.Generator().manual_seed(self.seed + 104_729 * (number + 1) + 1_299_709 * turn)
                found[number] = run_rounds(
                    level, seen, guess, rounds, count, generator, cold=False, advance=progress.advance
                )
        return found

    def _start(
        self, level: Level, images: CoarseImages, generator: torch.Generator, advance: Callable[[int], None]
    ) -> Guess:
        classes, rounds, count = self.settings.classes, self.settings.rounds_of(), self.settings.images_of()
        if self.several:
            return mixture(level, images, classes, rounds, count, generator, advance)
        guess = random_guess(level, images, 1, count, generator)
        return run_rounds(level, images, guess, rounds, count, generator, cold=True, advance=advance)

    def _followed(self, guess: Guess) -> Guess:
        """Several molecules at finer resolutions, with the particles of the search's images centred on the way."""
        self.centring = Centring(self.first, guess)
        self.images, self.centre = self._centred(self.images)
        self._within(CENTRED)
        generator = torch.Generator().manual_seed(self.seed + 15_485_863)
        count = self.settings.images_of()
        resolutions = sorted({max(resolution, self.settings.resolution) for resolution in FOLLOWED}, reverse=True)
        turns = math.ceil(TURNS * len(self.rows) / (count * len(resolutions)))
        for resolution in resolutions:
            level = self.search.level(resolution, NEAR)
            # most rounds at the finest: there classes become pure
            rounds = max(self.settings.rounds_of() // (1 if resolution == resolutions[-1] else 2), turns)
            with self.job.progress(rounds, f"molecules at {level.resolution:.0f} Å", "rounds") as progress:
                guess, shift = followed(
                    level, level.cut(self.images), guess.at(level), rounds, count, generator, progress.advance
                )
            self.images = moved(self.images, shift, self.plane, self.grid.pixel_size)
            self.centre = self.centre + shift
        self._within(FOUND)
        # all other particles of the stack are centred on what the molecules look like now
        self.centring = Centring(self.first, guess.at(self.first))
        return guess

    def _within(self, shift_range: float) -> None:
        """Particles are no farther off centre than so many Å from here on."""
        self.search = replace(self.search, shift_range=min(shift_range, self.search.shift_range))
        self.levels = self._levels()

    def _save(self, guesses: list[Guess], evidence: list[float]) -> None:
        tensors: dict[str, Tensor] = {}
        for number, guess in enumerate(guesses):
            rounds, names = torch.tensor(guess.rounds), ("volumes", "numerator", "weight", "noise", "share")
            kept = {name: getattr(guess, name) for name in names if getattr(guess, name) is not None}
            tensors |= under(str(number), kept | {"rounds": rounds})
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
            sums = own.get("numerator"), own.get("weight")
            guesses.append(Guess(own["volumes"], *sums, own["noise"], own["share"], int(own["rounds"])))
        return guesses, list(told["evidence"])

    # -------------------------------------------------------------------------------------------------- all particles

    def _settled(self, volumes: Tensor) -> tuple[Tensor, Placed]:
        """The images of the search placed off the grid, and volumes made of them, finer and finer."""
        plan = [self.levels[0], *self.levels, *[self.levels[-1]] * (SETTLING - 1)]
        placed = None
        for level, following in pairwise((*plan, plan[-1])):
            everywhere = self._cheap(level)
            where = "everywhere" if everywhere or placed is None else "nearby"
            with self.job.progress(len(self.rows), f"placing at {level.resolution:.0f} Å {where}") as progress:
                placer, fitted = Placer(self.particles, self.noise, level), level.low.fitted(volumes)
                placed = placer.placed(self.images, self.rows, fitted, placed, everywhere, progress.advance)
            self.job.log(f"log likelihood ratio per image {float(placed.likelihood.mean()):.2f}")
            volumes = self._made(placed, len(volumes), following)
        assert placed is not None
        return volumes, placed

    def _made(self, placed: Placed, molecules: int, level: Level) -> Tensor:
        """Volumes of the images of the search where they are placed."""
        low, images, pose = level.low, level.cut(self.images), placed.pose
        turned = shift_phases(pose.shift * (low.box_size / self.grid.extent), low.plane)
        product = torch.view_as_complex(images.values) * images.transfer * torch.view_as_complex(turned)
        weight = shell_sums(images.transfer.square(), low.plane) / torch.bincount(low.plane.shell)
        # of several, a volume that is thought poor loses images, and becomes poorer
        least_signal = MOSTLY_SIGNAL if self.several else LEAST_SIGNAL
        made: list[Tensor] = []
        for molecule in range(molecules):
            own = placed.component == molecule
            sums = ViewSums(torch.view_as_real(product[own]).contiguous(), weight[own], torch.ones(int(own.sum())))
            made.append(low.volumes(*low.sums(sums, pose.rotation[own], 1), least_signal))
        return torch.cat(made)

    def _all(self, volumes: Tensor, placed: Placed) -> Placed:
        """Every particle of the stack; those beyond the search's own are read in pieces, and placed everywhere."""
        searched = torch.zeros(self.particles.count, dtype=torch.bool)
        searched[self.rows] = True
        rest = torch.nonzero(~searched)[:, 0]
        placed = placed.moved(self.centre)
        if len(rest) == 0:
            return placed
        cheap = [level for level in self.levels if self._cheap(level)] or self.levels[:1]
        order, parts = [self.rows], [placed]
        with self.job.progress(len(rest), "placing all other particles") as progress:
            for rows in rest.split(MOST_IMAGES):
                images, centre = self._read(rows)
                found = None
                for level in {id(level): level for level in (cheap[-1], self.levels[-1])}.values():
                    placer, fitted = Placer(self.particles, self.noise, level), level.low.fitted(volumes)
                    found = placer.placed(images, rows, fitted, found, found is None)
                assert found is not None
                parts.append(found.moved(centre))
                order.append(rows)
                progress.advance(len(rows))
        return Placed.joined(parts)[torch.cat(order).argsort()]


def search_of(particles: Particles, config: Config, diameter: float, share_of_range: float = 1.0) -> Search:
    """What a stack and the settings say of a search for a molecule of a diameter; of the range of shifts so large a share."""
    settings = config.search
    reach = share_of_range * settings.shift_range_of()
    return Search(
        particles.grid, point_group(config.symmetry), diameter / 2, settings.lowest_of(particles.grid.extent), reach
    )

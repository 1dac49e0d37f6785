"""From particles without poses to refined ones: a search, refinement, and another look all round with the better maps.

The first search sees coarse maps, and leaves some particles in wrong places that refinement near them cannot mend. So when
refinement has settled, every particle is compared once more with views from everywhere, this time of the map of its own
half-set and to the resolution that both halves agree upon; then refinement goes on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.engine.checkpoint import load_checkpoint, save_checkpoint
from frazil.engine.job import Job
from frazil.inference.coarse_images import read_coarse
from frazil.inference.low_volume import resized
from frazil.numerics.shells import first_shell_below
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.ab_initio import Level, Search
from frazil.reconstruct.basis_job import measured_noise
from frazil.reconstruct.consensus import judge
from frazil.reconstruct.maps import believed
from frazil.reconstruct.molecules import refine_molecules
from frazil.reconstruct.placing import Placed, Placer
from frazil.reconstruct.refine import Refinement, refine
from frazil.reconstruct.search import MOST_IMAGES, search_of, search_poses

# other looks, rounds of refinement before each, and rounds after the last, unless so many were asked for
LOOKS, ROUNDS_BEFORE, ROUNDS = 2, 4, 12
# the other look goes as far as the half-maps agree this well, but not beyond this share of the first search's resolution
AGREED, FINEST = 0.5, 0.7
# how near the grid's views come to any rim, in units of the resolution; how far particles may have been off, in units of
# the first search's range
REACH, RANGE = 0.6, 0.6
# products that a comparison of one image may take, and the coarsest one, Å
MOST_WORK, COARSEST = 3e8, 30.0
# a sample of particles looks first: where no larger share of them moves, the others need not
SAMPLE, FEW = 300, 0.02
# where the last look still moves more than this share of all particles, the map is in doubt
MANY = 0.2
# a place is another one where it is more than so many degrees away
FAR = 20.0


def poses_by_search(particles: Particles, reference: Grid, config: Config, job: Job) -> tuple[Refinement, float]:
    """Search, refine, look again, refine. A meeting of the processes that work on the job.

    Returns:
        What came of it, and the diameter of a sphere around the molecule, Å.

    Raises:
        InputError: if the images differ in box or pixel size, or there are too few.
    """
    found = search_poses(particles, config, job)
    job.log("images do not tell the hand: the map may be its mirror image (--flip-hand on the result makes the other)")
    rounds = ROUNDS if config.refine.rounds is None else config.refine.rounds
    if config.search.classes > 1:
        refinement = refine_molecules(particles, found.placed, reference, _of_rounds(config, rounds), job)
        return refinement, found.diameter
    particles, doubt = particles.given(pose=found.placed.pose), None
    for look in range(LOOKS):
        few = _of_rounds(config, min(ROUNDS_BEFORE, rounds))
        refinement = refine(particles, reference, few, job, f"refinement_{look}")
        before, particles = refinement.particles, another_look(refinement, found.diameter, reference, config, job, look)
        assert before.pose is not None and particles.pose is not None
        doubt = still_lost(before.pose, particles.pose)
        if bool((before.pose.rotation == particles.pose.rotation).all()):
            break
    if doubt is not None:
        job.log(doubt)
    return refine(particles, reference, _of_rounds(config, rounds), job), found.diameter


def still_lost(before: Pose, after: Pose) -> str | None:
    """A warning where the last look moved so many particles far away that the map is in doubt; None elsewhere.

    Half-maps cannot tell: both begin from one search. Of simulated sets whose map was right at most 14 % moved, of one whose
    map was wrong 24 %.
    """
    moved = (before.rotation != after.rotation).flatten(1).any(dim=1).double().mean()
    if float(moved) <= MANY:
        return None
    return (
        f"caution: {float(moved):.0%} of the particles were still in a wrong place after refinement, so the map may be wrong,"
        " whatever its half-maps say. Compare with another --seed, or try more --search.starts"
    )


def _of_rounds(config: Config, rounds: int) -> Config:
    return config.model_copy(update={"refine": config.refine.model_copy(update={"rounds": rounds})})


def another_look(
    refinement: Refinement, diameter: float, reference: Grid, config: Config, job: Job, number: int
) -> Particles:
    """Every particle against views from everywhere of the map of its own half-set; the ``number`` is the checkpoint's."""

    def look() -> Pose:
        path = job.checkpoints / f"look_{number}.safetensors"
        if job.resumed and path.is_file():
            tensors, _ = load_checkpoint(path)
            return Pose(tensors["rotation"], tensors["shift"])
        pose, told = looked_around(refinement, config, diameter, reference, job)
        job.log(told)
        save_checkpoint(path, {"rotation": pose.rotation, "shift": pose.shift}, {})
        return pose

    return refinement.particles.given(pose=job.processes.from_first(look))


def looked_around(
    refinement: Refinement, config: Config, diameter: float, reference: Grid, job: Job
) -> tuple[Pose, str]:
    """A look in the map of each half-set: see `looked_among`."""
    consensus, _ = judge(*refinement.halves, config, reference)
    trust = believed(consensus.correlation.corrected).clamp(1e-3, 1 - 1e-3).float()
    # the images are as they are: density may be dark
    a, b = ((half.volume(trust / (1 - trust)) * consensus.mask)[None] for half in refinement.halves)
    assert refinement.particles.half_set is not None
    one = torch.zeros_like(refinement.particles.half_set)
    return looked_among(refinement.particles, (a, b), one, consensus.correlation.corrected, config, diameter, job)


def looked_among(
    particles: Particles,
    volumes: tuple[Float[Tensor, "volumes n n n"], Float[Tensor, "volumes n n n"]],
    component: Int[Tensor, " particles"],
    correlation: Float[Tensor, " shells"],
    config: Config,
    diameter: float,
    job: Job,
) -> tuple[Pose, str]:
    """The poses, those of particles that fit far better far away changed, and how many these are, in words.

    A sample looks first; where hardly any of them moves, the others stay as well.

    Args:
        volumes: of half-sets A and B, with density as it is in the images; each particle looks in all those of its own.
        component: the one that it is in. correlation: of the half-sets' maps. diameter: of a sphere around the molecule, Å.
    """
    assert particles.pose is not None and particles.half_set is not None
    grid = particles.grid
    agreed = grid.resolution_of(first_shell_below(believed(correlation), AGREED))
    search, finest = search_of(particles, config, diameter, RANGE), max(agreed, FINEST * config.search.resolution)
    level = _affordable(search, finest, len(volumes[0]))
    noise, plane = measured_noise(particles), grid.half_plane(level.low.band)
    placer = Placer(particles, noise, level)
    halves = [resized(half.float(), level.low.box_size) for half in volumes]
    known = Placed(particles.pose, component, torch.zeros(particles.count))
    rotation, shift = particles.pose.rotation.clone(), particles.pose.shift.clone()
    symmetry = point_group(config.symmetry)

    def look(rows: Tensor) -> None:
        for which, there in enumerate(halves):
            own = rows[particles.half_set[rows] == which]  # type: ignore[index]
            for some in own.split(MOST_IMAGES) if len(own) else ():
                images = read_coarse(particles, grid, plane, noise, some)
                found = placer.placed(images, some, there, known[some], advance=progress.advance).pose
                far = degrees_apart(found.rotation, known.pose.rotation[some], symmetry) > FAR
                rotation[some[far]], shift[some[far]] = found.rotation[far], found.shift[far]

    mixed = torch.randperm(particles.count, generator=torch.Generator().manual_seed(config.seed))
    sample, rest = mixed[:SAMPLE].sort().values, mixed[SAMPLE:].sort().values
    with job.progress(particles.count, f"looking everywhere at {level.resolution:.1f} Å") as progress:
        look(sample)
        moved = (rotation != known.pose.rotation).flatten(1).any(dim=1)
        if int(moved.sum()) <= FEW * len(sample):
            few = f"{int(moved.sum())} of {len(sample)} particles found another place, far away: too few to look at all"
            return Pose(rotation, shift), few
        look(rest)
    moved = (rotation != known.pose.rotation).flatten(1).any(dim=1)
    return Pose(rotation, shift), f"{int(moved.sum())} of {particles.count} particles found another place, far away"


def degrees_apart(
    first: Float[Tensor, "count 3 3"], second: Float[Tensor, "count 3 3"], symmetry: Float[Tensor, "operations 3 3"]
) -> Float[Tensor, " count"]:
    """The angle from each rotation to the nearest of those that symmetry makes equal to the second."""
    trace = torch.einsum("nij,nik,skj->ns", first.double(), second.double(), symmetry.double()).amax(dim=1)
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))


def _affordable(search: Search, resolution: float, volumes: int) -> Level:
    """The finest comparison with so many volumes, no finer than a resolution, that is not too much work."""
    while (level := search.level(resolution, REACH)).work * volumes > MOST_WORK and resolution < COARSEST:
        resolution *= 1.1
    return level

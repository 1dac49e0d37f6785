"""The job of `frazil reconstruct`: check the input, backproject, judge, write, draw; then hand over to the ensemble."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.mrc import read_volume, write_volume
from frazil.data.stack import Particles, read_particles, write_particles_star
from frazil.engine.files import write_text
from frazil.engine.job import Job
from frazil.engine.processes import Processes
from frazil.errors import InputError
from frazil.inference.backproject import backproject, noise_weights
from frazil.inference.half_map import PADDING, HalfMap
from frazil.numerics.rotation_grid import half_turned
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct import Config
from frazil.reconstruct.maps import Consensus, contrast_of, finish_maps, fsc_table
from frazil.reconstruct.tilt_pairs import check_half_sets, notes_on_tilts

if TYPE_CHECKING:
    from frazil.reconstruct.refine import Refinement

GIB = 1024**3
# how strong a particle is in its image, 1 on average
SCALE_COLUMN = "frazilScale"
# rounds of refinement by conformation where poses were found here: of a motion, of discrete states, which take longer
BY_STATE, BY_DISCRETE_STATE = 3, 1


def reconstruct(config: Config, job: Job) -> None:
    """Run the whole verb: consensus first, then the ensemble where one is asked for.

    Raises:
        InputError: if the stack has no poses, the point group does not exist, the mask does not fit, or a latent
            dimension is asked of a density that cannot move.
    """
    check(config)
    particles = checked_particles(read_particles(config.particles, config.images), config)
    if config.flip_hand:
        particles = of_other_hand(particles, config)
    reference = reference_grid(particles)
    check_stack(particles, config)
    check_molecules(particles, config)
    check_shares(particles, job.processes)
    job.log(describe(particles, reference))
    for note in notes_on_tilts(particles, config):
        job.log(note)
    found = None
    if config.poses == "amortised":
        from frazil.reconstruct.found_poses import find_poses

        found = find_poses(particles, config, job)
        particles = found.particles
    elif config.searched_with_field:
        from frazil.reconstruct.field_search import search_with_field

        found = search_with_field(particles, config, job)
        particles = found.particles
    job.announce_memory(planned_memory(particles, reference), "two half-maps and a chunk of images")
    refinement = refined(particles, reference, config, job, found=found is not None)
    if refinement is not None:
        particles, (a, b) = refinement.particles, refinement.halves
    else:
        a, b = backproject_together(particles, reference, config.symmetry, job)
    consensus, sign = job.processes.from_first(lambda: judge(a, b, config, reference))
    job.log(f"particles are {'bright' if sign > 0 else 'dark'} in the images ({config.contrast})")
    if job.processes.first:
        write_outputs(job.outputs, consensus, particles, None if refinement is None else refinement.scale)
    resolution = (
        f"{consensus.resolution():.2f} Å (FSC 0.143 in the mask), {consensus.unmasked_resolution():.2f} Å unmasked"
    )
    job.metric(
        resolution_masked=round(consensus.resolution(), 4),
        resolution_unmasked=round(consensus.unmasked_resolution(), 4),
        b_factor=round(consensus.b_factor, 2),
    )
    sections = []
    if config.report and job.processes.first:
        from frazil.reconstruct.report import write_report

        sections = write_report(job, consensus, particles, config, refinement)
    if config.made_of == "voxels" or config.latent_dim == 0:
        job.made(job.outputs / "consensus.mrc", resolution, f"frazil analyze {shlex.quote(str(job.folder))}")
        return
    if config.made_of == "basis":
        from frazil.reconstruct.basis_job import learn_basis
        from frazil.reconstruct.refine import widest_prior

        moved = refinement is not None and config.refine.pose
        prior = widest_prior(config.refine, particles.grid) if moved else None
        good, following = learn_basis(particles, consensus, config, job, sign=sign, pose_prior=prior)
    elif found is not None:
        from frazil.reconstruct.found_poses import write_found_ensemble

        good, following = write_found_ensemble(found, sign, job), job.folder
    else:
        from frazil.reconstruct.neural import train_neural

        good, following = train_neural(particles, config, job, sign=sign), job.folder
    if config.report and job.processes.first:
        from frazil.reconstruct.report import write_ensemble_report

        job.log("drawing conformations")
        write_ensemble_report(job, sections, consensus, particles, config)
    made = job.outputs / ("latent.npy" if (job.outputs / "latent.npy").exists() else "consensus.mrc")
    job.made(made, f"{resolution}; {good}", f"frazil analyze {shlex.quote(str(following))}")


def refined(particles: Particles, reference: Grid, config: Config, job: Job, *, found: bool) -> Refinement | None:
    """The particles after the search and the refinement that a config asks for; None where it asks for none.

    Args:
        found: whether their poses were found by a neural network just now. Those of an encoder beside a map of voxels are
            where a search begins; a field comes with them, and they stay.
    """
    refinement, diameter, settings = None, None, config.refine
    searched = not found and (particles.pose is None or config.poses == "search" or config.ignore_poses)
    searched |= found and config.made_of != "field" and settings.rounds != 0
    moving = config.made_of == "basis" and config.latent_dim != 0
    by_state = settings.by_state
    if by_state is None:
        usual = BY_STATE if config.basis.components == 1 else BY_DISCRETE_STATE
        asked_not = settings.rounds == 0 or not settings.pose
        by_state = usual if moving and (found or searched) and not asked_not else 0
    if searched:
        from frazil.reconstruct.found_by_search import poses_by_search

        refinement, diameter = poses_by_search(particles, reference, config, job)
    elif settings.rounds or by_state:
        from frazil.reconstruct.refine import refine

        together = config.model_copy(update={"refine": settings.model_copy(update={"rounds": settings.rounds or 0})})
        refinement = refine(particles, reference, together, job)
    if refinement is not None and by_state:
        from frazil.reconstruct.by_state import refine_by_state

        refinement = refine_by_state(refinement, reference, config, job, by_state, diameter)
    return refinement


def check(config: Config) -> None:
    """Refuse settings that contradict each other before any work is done."""
    try:
        point_group(config.symmetry)
    except ValueError as error:
        raise InputError(str(error), where="--symmetry", remedy="give one of these") from None
    if config.latent_dim and config.made_of == "voxels":
        raise InputError(
            f"{config.latent_dim} latent coordinates need a density that can move, and voxels are rigid",
            where="--latent-dim",
            remedy="leave out --density, or add --preset cryodrgn",
        )
    if config.refine.by_state and (config.made_of != "basis" or config.latent_dim == 0):
        raise InputError(
            "particles are refined by conformation where a basis of them is learnt, and none is",
            where="--refine.by-state",
            remedy="add --density basis, or leave it out",
        )
    if config.refine.by_state and not config.refine.pose:
        raise InputError(
            "refinement by conformation refines poses, and they are to stay",
            where="--refine.by-state",
            remedy="leave out one of --refine.by-state and --refine.no-pose",
        )
    if config.basis.within != 0 and (config.made_of != "basis" or config.basis.components == 1):
        raise InputError(
            "there is one state only, and motion within states needs several",
            where="--basis.within",
            remedy="add --density basis and --basis.components 2 or more, or leave it out",
        )
    if config.latent_dim is not None and config.made_of == "basis" and config.basis.components > 1:
        raise InputError(
            f"{config.latent_dim} latent coordinates were asked for, and {config.basis.components} discrete states",
            where="--latent-dim",
            remedy="leave it out: states bring their own coordinates; for motion within them give --basis.within",
        )
    if config.searched_with_field:
        check_field_search(config)
    elif config.made_of == "field" and not config.latent_dim:
        raise InputError("a neural field needs a latent coordinate", where="--latent-dim", remedy="give 1 or more")
    if config.poses == "amortised" and config.made_of == "field" and config.amortised.proposals:
        raise InputError(
            f"{config.amortised.proposals} random proposals for every batch are too many slices of a neural field",
            where="--amortised.proposals",
            remedy="give 0, or leave out --density field",
        )


def check_field_search(config: Config) -> None:
    """Refuse settings that contradict a search against a neural field."""
    if config.made_of != "field" or config.latent_dim is None:
        raise InputError(
            "poses are searched hierarchically against a neural field only",
            where="--search.method",
            remedy="add --density field and --latent-dim (0 for one rigid map), or give --preset cryodrgn2",
        )
    if config.train.refine_poses:
        raise InputError(
            "poses are searched, they cannot be trained as well",
            where="--train.refine-poses",
            remedy="leave it out, or refine afterwards: --refine.rounds 10",
        )
    if config.search.classes > 1 or config.symmetry.upper() != "C1":
        asked = f"{config.search.classes} molecules" if config.search.classes > 1 else f"symmetry {config.symmetry}"
        raise InputError(
            f"{asked} and a neural field do not go together in a search",
            where="--search.classes" if config.search.classes > 1 else "--symmetry",
            remedy="leave it out, or give --search.method starts",
        )


def check_stack(particles: Particles, config: Config) -> None:
    """Refuse a stack that an ensemble cannot be learnt from, before the consensus is made.

    Raises:
        InputError: if the images differ in box or pixel size, the focus mask does not fit, views of a particle are in
            different half-sets, or there are hardly more particles than states.
    """
    if config.made_of == "voxels":
        return
    grid = particles.grid
    if config.made_of == "field":
        return
    if config.basis.focus_mask is not None:
        checked_mask(config.basis.focus_mask, grid, "focus mask")
    check_half_sets(particles)
    if 2 * config.basis.components > particles.count:
        raise InputError(
            f"{config.basis.components} states of {particles.count} particles",
            where="--basis.components",
            remedy=f"give at most {particles.count // 2}",
        )


def check_molecules(particles: Particles, config: Config) -> None:
    """Refuse what contradicts a search, or is asked of one that does not take place.

    Raises:
        InputError: if given poses are to be ignored, or several molecules are asked for where poses are given or where
            conformations are to be learnt.
    """
    if config.ignore_poses and config.poses == "given":
        raise InputError("poses cannot be given and ignored", where="--ignore-poses", remedy="leave out one of the two")
    if config.search.classes == 1:
        return
    if config.made_of != "voxels":
        raise InputError(
            f"{config.search.classes} molecules are told apart first, and how each one moves is learnt afterwards",
            where="--search.classes",
            remedy="leave out --density and --latent-dim, then give outputs/component_000/particles.star and so on",
        )
    if particles.pose is not None and config.poses != "search" and not config.ignore_poses:
        raise InputError(
            "molecules are told apart in a search, and the table has poses",
            where="--search.classes",
            remedy="add --poses search, or sort states at the given poses with --density basis --basis.components",
        )


def check_shares(particles: Particles, processes: Processes) -> None:
    """Refuse more processes than particles of a half-set.

    Raises:
        InputError: if a process would have nothing to do.
    """
    assert particles.half_set is not None
    least = int(torch.bincount(particles.half_set, minlength=2).min())
    if processes.count > max(least, 1):
        raise InputError(
            f"{least} particles in a half-set for {processes.count} processes",
            where=particles.path,
            remedy=f"start at most {least}",
        )


def checked_particles(particles: Particles, config: Config) -> Particles:
    """The stack with half-sets, and with poses unless they are to be found, or an error that says what is missing."""
    if particles.count == 0:
        raise InputError("the stack holds no particle", where=config.particles, remedy="give a stack with particles")
    if particles.pose is None and config.poses == "given":
        raise InputError(
            "the stack has no poses",
            where=config.particles,
            remedy="leave out --poses given and they are searched, or give refined particles (rlnAngleRot, ...)",
        )
    half_set = particles.half_set
    if half_set is None:
        views, generator = particles.views, torch.Generator().manual_seed(config.seed)
        half_set = (torch.randperm(views.particles, generator=generator) % 2)[views.ordinal]
        particles = particles.with_half_set(half_set)
    if particles.count > 1 and len(half_set.unique()) < 2:
        raise InputError(
            "all particles are in one half-set", where=config.particles, remedy="leave rlnRandomSubset out or mend it"
        )
    return particles


def of_other_hand(particles: Particles, config: Config) -> Particles:
    """The particles in the poses that make the map its point mirror image.

    ``V(-x)`` seen in a rotation, and that seen turned by half a turn in its plane, are ``V(x)`` seen in the rotation. The
    inversion commutes with all rotations, so point groups stay where they are.

    Raises:
        InputError: if the poses are not those of the table.
    """
    if particles.pose is None or config.ignore_poses or config.poses in ("search", "amortised"):
        raise InputError(
            "a hand can be flipped where there are poses, and these are yet to be found",
            where="--flip-hand",
            remedy="give the particles.star of the finished job",
        )
    return particles.given(pose=Pose(half_turned(particles.pose.rotation), particles.pose.shift))


def reference_grid(particles: Particles) -> Grid:
    """The grid of the map: that of the optics group with the most particles."""
    return particles.grids[int(torch.bincount(particles.group, minlength=len(particles.grids)).argmax())]


def describe(particles: Particles, reference: Grid) -> str:
    """One line about the input."""
    optics = "no CTF: images are taken as they are" if particles.optics is None else "CTF"
    groups = f", {len(particles.grids)} optics groups" if len(particles.grids) > 1 else ""
    views = particles.views
    seen = (
        f"{particles.count} views of {views.particles} particles,"
        if views.shared
        else f"{particles.count} particles of"
    )
    return f"{seen} {reference.box_size} px at {reference.pixel_size:g} Å/px{groups}, {optics}"


def planned_memory(particles: Particles, reference: Grid) -> int:
    """Bytes at the peak: both halves, their completion, one padded real-space map with its spectrum, a chunk of images."""
    padded = (PADDING * reference.box_size) ** 3 * 4
    return 4 * HalfMap.memory(reference) + 3 * padded + 256 * 3 * reference.box_size**2 * 4 + GIB // 2


def backproject_together(
    particles: Particles, reference: Grid, symmetry: str, job: Job, scale: Float[Tensor, " particles"] | None = None
) -> tuple[HalfMap, HalfMap]:
    """The sums over all images, each process reading its share. ``scale``: how strong each particle is in its image."""
    own = job.processes.share(range(particles.count))
    noise = noise_weights(particles, reference)
    given = None if scale is None else scale[own.start : own.stop]
    with job.progress(len(own), "backprojecting") as progress:
        part, advance = particles[own.start : own.stop], progress.advance
        a, b = backproject(part, reference, symmetry, noise=noise, scale=given, advance=advance)
    job.processes.sum((a.sums, b.sums))
    return a, b


def judge(a: HalfMap, b: HalfMap, config: Config, reference: Grid, sign: int | None = None) -> tuple[Consensus, int]:
    """Half-maps with bright density, all that follows from them, and the sign that made them bright, if it is not known."""
    half_a, half_b, both = a.volume(), b.volume(), (a + b).volume()
    given = {"bright": 1, "dark": -1, "auto": 0}[config.contrast]
    sign = sign or given or contrast_of(both, reference)
    mask = None if config.mask is None else checked_mask(config.mask, reference)
    return finish_maps(half_a * sign, half_b * sign, both * sign, reference, mask, config.seed), sign


def checked_mask(path: Path, reference: Grid, what: str = "mask") -> Float[Tensor, "n n n"]:
    """A mask that fits the map; ``what`` is its name in a message."""
    mask, grid = read_volume(path)
    if grid.box_size != reference.box_size:
        raise InputError(
            f"the {what} has a box of {grid.box_size} px, the map one of {reference.box_size} px",
            where=path,
            remedy="give a mask on the grid of the map",
        )
    return mask.clamp(0, 1)


def write_outputs(
    folder: Path, consensus: Consensus, particles: Particles, scale: Float[Tensor, " particles"] | None = None
) -> None:
    """Maps, FSC table and, last, particles under their fixed names. ``scale``: a further column of the particles."""
    maps = {
        "half_a": consensus.half_a,
        "half_b": consensus.half_b,
        "consensus": consensus.filtered,
        "consensus_sharpened": consensus.sharpened,
        "mask": consensus.mask,
    }
    for name, volume in maps.items():
        write_volume(folder / f"{name}.mrc", volume, consensus.grid.pixel_size)
    write_text(folder / "fsc.csv", fsc_table(consensus))
    extra = None if scale is None else {SCALE_COLUMN: scale}
    write_particles_star(particles, folder / "particles.star", extra=extra)

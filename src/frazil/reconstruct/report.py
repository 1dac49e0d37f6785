"""The report of a reconstruction: what moves, the map, how far it can be believed, where the particles were seen from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frazil.data.stack import Particles
from frazil.engine.job import Job
from frazil.engine.report import write_report as write_page
from frazil.figures import curves, maps, poses, raymarch
from frazil.figures.section import Section
from frazil.numerics.symmetry import point_group
from frazil.reconstruct import Config
from frazil.reconstruct.ensemble_report import ensemble_sections
from frazil.reconstruct.maps import Consensus

if TYPE_CHECKING:
    from frazil.reconstruct.refine import Refinement


def write_report(
    job: Job,
    consensus: Consensus,
    particles: Particles,
    config: Config,
    refinement: Refinement | None = None,
) -> list[Section]:
    """Write report.html and its figures into the job's folder, as far as the consensus goes.

    Args:
        refinement: what made the particles' poses, if they were refined.

    Returns:
        The sections, for the report that is written again when the ensemble is there.
    """
    sections = [
        map_section(consensus, config.symmetry),
        resolution_section(consensus),
        pose_section(particles, config.symmetry, "given" if refinement is None else "refined"),
    ]
    if refinement is not None:
        from frazil.reconstruct.refine_report import refinement_section

        sections.insert(2, refinement_section(refinement))
    moves = config.made_of != "voxels" and config.latent_dim != 0
    waiting = Section("Conformations", "They are being learnt; this page is written again when they are there.")
    shown = [waiting, *sections] if moves else sections
    write_page(job, f"Consensus of {particles.count:,} particles", shown, key_figures(consensus, particles, config))
    return sections


def write_ensemble_report(
    job: Job, sections: list[Section], consensus: Consensus, particles: Particles, config: Config
) -> None:
    """Write report.html again, with what moves before the sections of the consensus."""
    moving, keys = ensemble_sections(job, config.seed)
    made = [(job.outputs / name).exists() for name in ("latent.npy", "component_probability.npy")]
    what = ("States" if made[1] else "Conformations") if made[0] else "One rigid structure"
    keys = {"particles": particles.count, **keys, "resolution of the consensus": f"{consensus.resolution():.2f} Å"}
    write_page(job, f"{what} of {particles.count:,} particles", [*moving, *sections], keys)


def key_figures(consensus: Consensus, particles: Particles, config: Config) -> dict[str, object]:
    """The few numbers that say how good the consensus is."""
    return {
        "resolution in the mask (FSC 0.143)": f"{consensus.resolution():.2f} Å",
        "unmasked": f"{consensus.unmasked_resolution():.2f} Å",
        "particles": particles.count,
        "symmetry": config.symmetry,
        "B factor": f"{consensus.b_factor:.0f} Å²",
    }


def map_section(consensus: Consensus, symmetry: str) -> Section:
    """Surface and sections of the map. With symmetry, one view along the z axis shows what three would."""
    shown = (consensus.sharpened * consensus.mask).numpy()
    views = ("z",) if symmetry.upper() in ("T", "O") else ("z", "x", "y")
    section = Section("The map", "Sharpened and masked, at a contour that encloses the strong density.")
    section.figures["map_surface"] = maps.surface(shown, raymarch.contour_level(shown), views, title="Surface")
    section.figures["map_sections"] = maps.sections(consensus.filtered.numpy(), consensus.grid.pixel_size)
    return section


def resolution_section(consensus: Consensus) -> Section:
    """FSC of the half-maps."""
    correlation = consensus.correlation
    series = {
        "unmasked": correlation.unmasked,
        "in the mask": correlation.masked,
        "phases randomised": correlation.randomised,
        "corrected": correlation.corrected,
    }
    grid = consensus.grid
    scrambled = grid.resolution_of(correlation.randomised_from)
    section = Section(
        "Resolution",
        "Fourier shell correlation between the two half-maps. The corrected curve is the masked one freed from the"
        f" agreement that the mask itself makes (phases randomised from {scrambled:.1f} Å).",
    )
    section.figures["fsc"] = curves.fsc(series, grid.pixel_size, grid.box_size)
    return section


def pose_section(particles: Particles, symmetry: str, origin: str = "given") -> Section:
    """Where the particles were seen from, with the views that symmetry makes equal. ``origin``: of the poses, in a word."""
    assert particles.pose is not None
    group = point_group(symmetry)
    copies = "" if len(group) == 1 else f", each shown in the {len(group)} views that {symmetry} makes equal"
    section = Section("Poses", f"{particles.count:,} particles with the poses {origin}{copies}.")
    section.figures["viewing_directions"] = poses.angular_distribution(particles.pose, symmetry=group)
    return section

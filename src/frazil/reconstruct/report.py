"""The report of a reconstruction: the map, how far it can be believed, and where the particles were seen from."""

from __future__ import annotations

from frazil.data.stack import Particles
from frazil.engine.job import Job
from frazil.engine.report import write_report as write_page
from frazil.figures import curves, maps, poses, raymarch
from frazil.figures.section import Section
from frazil.numerics.symmetry import point_group
from frazil.reconstruct import Config
from frazil.reconstruct.maps import Consensus


def write_report(job: Job, consensus: Consensus, particles: Particles, config: Config) -> None:
    """Write report.html and its figures into the job's folder."""
    key = {
        "resolution in the mask (FSC 0.143)": f"{consensus.resolution():.2f} Å",
        "unmasked": f"{consensus.unmasked_resolution():.2f} Å",
        "particles": particles.count,
        "symmetry": config.symmetry,
        "B factor": f"{consensus.b_factor:.0f} Å²",
    }
    sections = [
        map_section(consensus, config.symmetry),
        resolution_section(consensus),
        pose_section(particles, config.symmetry),
    ]
    write_page(job, f"Consensus of {particles.count:,} particles", sections, key)


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


def pose_section(particles: Particles, symmetry: str) -> Section:
    """Where the particles were seen from, with the views that symmetry makes equal."""
    assert particles.pose is not None
    group = point_group(symmetry)
    copies = "" if len(group) == 1 else f", each shown in the {len(group)} views that {symmetry} makes equal"
    section = Section("Poses", f"{particles.count:,} particles with the poses given{copies}.")
    section.figures["viewing_directions"] = poses.angular_distribution(particles.pose, symmetry=group)
    return section

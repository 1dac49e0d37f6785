"""`frazil simulate particles`: from a config to files."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from frazil.data.ensemble import save_ensemble
from frazil.data.truth import write_truth
from frazil.engine.files import write_npy
from frazil.errors import InputError
from frazil.physics.grid import Grid
from frazil.simulate.molecules import generate
from frazil.simulate.noise import NoiseLevel, NoiseShape
from frazil.simulate.particles import (
    Draw,
    OpticsLaw,
    draw_particles,
    noise_level,
    normalised,
    write_images,
    write_state_volumes,
    write_table,
)
from frazil.simulate.specimen import (
    SIGMA_PER_RESOLUTION,
    MovingMolecule,
    RigidDensity,
    Specimen,
    check_fits,
    diameter_of,
    even_box,
    read_atoms,
    read_map,
)

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.simulate import Config

SNR_DEFINITION = (
    "variance of the noise-free images after the CTF over all pixels of the whole image, averaged over images, "
    "divided by the variance of the noise in a pixel"
)


def simulate_particles(config: Config, job: Job) -> None:
    """Draw the data set a config describes and write it, truth included.

    Raises:
        InputError: if an option is out of range, or a file is missing or unreadable.
    """
    check_options(config)
    specimen, grid = prepare_specimen(config)
    optics = optics_law(config) if config.ctf == "on" else None
    draw = draw_particles(
        specimen,
        grid,
        config.count,
        optics=optics,
        shift_range=config.shift_range,
        states=config.states,
        seed=config.seed,
    )
    shape = NoiseShape(config.noise_excess if config.noise == "coloured" else 0.0, config.noise_length)
    level = None if config.noise == "none" else noise_level(draw, config.snr, config.snr_pixel_size, shape)
    draw, level = normalised(draw, level)
    star = job.outputs / "particles.star"
    with job.progress(config.count, "drawing particles") as bar:
        write_images(job.outputs / "particles.mrcs", draw, level, config.seed, bar.advance)
    write_table(star, draw, job.outputs / "particles.mrcs")
    facts = noise_facts(config, draw, level)
    write_everything_true(job, draw, facts)
    made = f"{config.count} particles of {grid.box_size} px, {grid.pixel_size:g} Å/px"
    good = f"{made}, signal-to-noise ratio {facts['effective_snr']:.3g}" if level else f"{made}, no noise"
    job.made(star, good, f"frazil reconstruct {star}")


def check_options(config: Config) -> None:
    """Raise InputError for options that contradict each other."""
    given = [name for name in ("set", "atoms", "density") if getattr(config, name) is not None]
    if len(given) > 1:
        raise InputError(f"two specimens are given: --{given[0]} and --{given[1]}", remedy="give one of them")
    low, high = config.defocus
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(
            f"{low:g} to {high:g} Å is no range", where="--defocus", remedy="give the smaller defocus first"
        )


def prepare_specimen(config: Config) -> tuple[Specimen, Grid]:
    """What to image, and the grid of the images: what a file knows is taken from it.

    Raises:
        InputError: if a file cannot be read or the specimen does not fit the box.
    """
    if config.atoms is not None:
        return _atoms(config)
    if config.density is not None:
        voxels = read_map(config.density)
        grid = Grid(config.box or voxels.grid.box_size, config.pixel_size or voxels.grid.pixel_size)
        if grid.extent > voxels.grid.extent * 1.001 or grid.nyquist < voxels.grid.nyquist * 0.999:
            raise InputError(
                f"images of {grid.box_size} px at {grid.pixel_size:g} Å ask more than the map of "
                f"{voxels.grid.box_size} voxels at {voxels.grid.pixel_size:g} Å holds",
                where=config.density,
                remedy="leave out --box and --pixel-size, or give a smaller box or larger pixels",
            )
        return RigidDensity(voxels), grid
    grid = Grid(config.box or 64, config.pixel_size or 4.0)
    sigma = SIGMA_PER_RESOLUTION * (config.resolution or 4 * grid.pixel_size)
    diameter = config.diameter or 0.75 * grid.extent
    if diameter > grid.extent:
        raise InputError(
            f"a molecule of {diameter:g} Å does not fit a box of {grid.extent:g} Å",
            where="--diameter",
            remedy="give a larger --box or a smaller diameter",
        )
    return MovingMolecule(generate(config.set or "linear-1d", grid, diameter, sigma)), grid


def _atoms(config: Config) -> tuple[Specimen, Grid]:
    assert config.atoms is not None
    resolution = config.resolution or 3.0
    atoms = read_atoms(config.atoms, resolution)
    pixel_size = config.pixel_size or resolution / 2
    grid = Grid(config.box or max(8, even_box(diameter_of(atoms), pixel_size)), pixel_size)
    check_fits(atoms, grid, config.atoms)
    return RigidDensity(atoms), grid


def optics_law(config: Config) -> OpticsLaw:
    """The distribution of optics a config asks for."""
    return OpticsLaw(
        voltage=config.voltage,
        cs=config.cs,
        amplitude_contrast=config.amplitude_contrast,
        phase_shift=config.phase_shift,
        b_factor=config.b_factor,
        defocus=config.defocus,
        astigmatism=config.astigmatism,
    )


def noise_facts(config: Config, draw: Draw, level: NoiseLevel | None) -> dict[str, object]:
    """What truth.json says of signal and noise."""
    signal = draw.signal_variance(draw.grid)
    facts: dict[str, object] = {
        "snr_definition": SNR_DEFINITION,
        "signal_variance": signal,
        "noise": config.noise,
        "box_size": draw.grid.box_size,
        "pixel_size": draw.grid.pixel_size,
        "seed": config.seed,
    }
    if level is None:
        return facts
    variance = level.variance(draw.grid)
    return facts | {
        "snr": config.snr,
        "snr_pixel_size": config.snr_pixel_size or draw.grid.pixel_size,
        "effective_snr": signal / variance,
        "noise_variance": variance,
        "noise_spectral_density": level.density,
        "noise_excess": level.shape.excess,
        "noise_length": level.shape.length,
    }


def write_everything_true(job: Job, draw: Draw, facts: dict[str, object]) -> None:
    """Poses, latents, states, defocus, state volumes and, for a continuous motion, the moving molecule itself."""
    folder = job.outputs / "truth"
    conformations, specimen = draw.conformations, draw.specimen
    if isinstance(specimen, MovingMolecule) and conformations.latent is not None:
        body = specimen.molecule.body
        facts = facts | {"circular": list(specimen.molecule.circular)}
        rest = body.rest.with_linear_parameters(body.rest.amplitudes * draw.scale)
        save_ensemble(folder, replace(body, rest=rest))
    if draw.optics is not None:
        optics = draw.optics
        write_npy(folder / "defocus.npy", torch.stack([optics.defocus_u, optics.defocus_v], dim=1).numpy())
    write_truth(
        folder,
        latent=_array(conformations.latent),
        state=conformations.state.numpy(),
        rotation=draw.pose.rotation.numpy(),
        shift=draw.pose.shift.numpy(),
        volumes=write_state_volumes(folder / "volumes", draw),
        volume_latents=_array(conformations.state_latents),
        facts=facts,
    )


def _array(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()

"""`frazil simulate particles`: from a config to files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from frazil.data.ensemble import save_ensemble
from frazil.data.truth import write_truth
from frazil.engine.files import write_npy
from frazil.errors import InputError
from frazil.physics.grid import Grid
from frazil.physics.path import GaussianPath
from frazil.simulate.disturbance import Disturbance
from frazil.simulate.junk import KINDS
from frazil.simulate.models import SIGMA_PER_RESOLUTION, read_atoms, read_two_conformations
from frazil.simulate.molecules import Molecule, SetName, generate, generate_mixture
from frazil.simulate.noise import NoiseLevel, NoiseShape
from frazil.simulate.orientations import OrientationLaw
from frazil.simulate.particles import (
    Draw,
    OpticsLaw,
    draw_particles,
    noise_level,
    normalised,
    tilted_pairs,
    write_images,
    write_state_volumes,
    write_table,
)
from frazil.simulate.recipes import Recipe, recipe_of
from frazil.simulate.specimen import (
    ListedStates,
    MovingMolecule,
    RigidDensity,
    Specimen,
    check_fits,
    even_box,
    read_map,
    single,
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
    recipe = settled_recipe(config)
    specimen, recipe = prepare_specimen(config, recipe)
    law = optics_law(config) if config.ctf == "on" else None
    draw = draw_particles(
        specimen,
        recipe.grid,
        recipe.count,
        optics=law,
        shift_range=recipe.shift_range,
        states=recipe.states,
        seed=config.seed,
        orientations=orientation_law(config),
        junk=config.junk,
    )
    if config.tilt_pairs is not None:
        draw = tilted_pairs(draw, config.tilt_pairs, law, recipe.shift_range, config.seed)
    shape = NoiseShape(config.noise_excess if config.noise == "coloured" else 0.0, config.noise_length)
    level = None if config.noise == "none" else noise_level(draw, recipe.snr, recipe.snr_pixel_size, shape)
    if recipe.snr == 0:
        draw = replace(draw, scale=0.0)
    draw, level = normalised(draw, level)
    star = job.outputs / "particles.star"
    with job.progress(draw.count, "drawing images") as bar:
        write_images(job.outputs / "particles.mrcs", draw, level, config.seed, bar.advance)
    errors = Disturbance(config.pose_error, config.shift_error, config.defocus_error)
    write_table(star, draw, job.outputs / "particles.mrcs", errors, config.seed)
    facts = noise_facts(config, recipe, draw, level) | unknown_facts(config)
    write_everything_true(job, draw, facts)
    images = (
        f"{draw.count} particles"
        if config.tilt_pairs is None
        else f"{draw.count} images of {draw.count // 2} particles"
    )
    made = f"{images} of {draw.grid.box_size} px, {draw.grid.pixel_size:g} Å/px"
    good = f"{made}, signal-to-noise ratio {facts['effective_snr']:.3g}" if level else f"{made}, no noise"
    job.made(star, good, f"frazil reconstruct {star}")


def check_options(config: Config) -> None:
    """Raise InputError for options that contradict each other."""
    given = [name for name in ("set", "atoms", "density") if getattr(config, name) is not None]
    if len(given) > 1:
        raise InputError(f"two specimens are given: --{given[0]} and --{given[1]}", remedy="give one of them")
    if config.size is not None and (config.atoms is not None or config.density is not None):
        raise InputError("a size belongs to a generated set", where="--size", remedy="give --count, --box and --snr")
    if config.atoms_to is not None and config.atoms is None:
        raise InputError("a path has two ends", where="--atoms-to", remedy="give the first conformation with --atoms")
    if config.noise == "none" and config.snr == 0:
        raise InputError(
            "images without signal and without noise are empty", where="--snr", remedy="give one of the two"
        )
    if config.defocus_error and config.ctf == "off":
        raise InputError(
            "there is no defocus to disturb without a CTF",
            where="--defocus-error",
            remedy="leave out one of --ctf off and it",
        )
    low, high = config.defocus
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(
            f"{low:g} to {high:g} Å is no range", where="--defocus", remedy="give the smaller defocus first"
        )


def settled_recipe(config: Config) -> Recipe:
    """The recipe of the set and size, with whatever the config says itself in its place."""
    recipe = recipe_of(config.set or "linear-1d", config.size or "m")
    grid = Grid(config.box or recipe.grid.box_size, config.pixel_size or recipe.grid.pixel_size)
    names = ("count", "states", "snr", "snr_pixel_size", "shift_range")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return replace(recipe, grid=grid, **given)


def prepare_specimen(config: Config, recipe: Recipe) -> tuple[Specimen, Recipe]:
    """What to image, and the recipe on the grid of the images: what a file knows is taken from it.

    Raises:
        InputError: if a file cannot be read or the specimen does not fit the box.
    """
    if config.atoms is not None:
        return _atoms(config, config.atoms, recipe)
    if config.density is not None:
        return _map(config, config.density, recipe)
    name = config.set or "linear-1d"
    sigma = SIGMA_PER_RESOLUTION * (config.resolution or recipe.resolution())
    diameter = config.diameter or recipe.diameter()
    specimen = _generated(name, recipe, diameter, sigma)
    check_fits(specimen, recipe.grid, "--diameter" if config.diameter else f"--set {name}")
    return specimen, recipe


def _generated(name: SetName | Literal["mix"], recipe: Recipe, diameter: float | None, sigma: float) -> Specimen:
    if name == "mix":
        return ListedStates(tuple(generate_mixture(recipe.states, recipe.grid, diameter, sigma)))
    molecule = generate(name, recipe.grid, diameter, sigma)
    if molecule.states:
        return ListedStates.of(molecule)
    if not molecule.circular:
        return RigidDensity(single(molecule.body.rest))
    return MovingMolecule(molecule, stepped=name == "igg1d")


def _map(config: Config, path: Path, recipe: Recipe) -> tuple[Specimen, Recipe]:
    voxels = read_map(path)
    grid = Grid(config.box or voxels.grid.box_size, config.pixel_size or voxels.grid.pixel_size)
    if grid.extent > voxels.grid.extent * 1.001 or grid.nyquist < voxels.grid.nyquist * 0.999:
        raise InputError(
            f"images of {grid.box_size} px at {grid.pixel_size:g} Å ask more than the map of "
            f"{voxels.grid.box_size} voxels at {voxels.grid.pixel_size:g} Å holds",
            where=path,
            remedy="leave out --box and --pixel-size, or give a smaller box or larger pixels",
        )
    return RigidDensity(voxels), replace(recipe, grid=grid)


def _atoms(config: Config, path: Path, recipe: Recipe) -> tuple[Specimen, Recipe]:
    resolution = config.resolution or 3.0
    pixel_size = config.pixel_size or resolution / 2
    if config.atoms_to is None:
        ends = (read_atoms(path, resolution),)
    else:
        ends = read_two_conformations(path, config.atoms_to, resolution)
    widest = ListedStates(ends).diameter()
    grid = Grid(config.box or max(8, even_box(widest, pixel_size)), pixel_size)
    if len(ends) == 1:
        specimen = RigidDensity(ends[0])
    else:
        centres = torch.stack([end.centres for end in ends])
        specimen = MovingMolecule(Molecule(GaussianPath(centres, ends[0].amplitudes, ends[0].sigmas, grid)))
    check_fits(specimen, grid, path)
    return specimen, replace(recipe, grid=grid)


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


def orientation_law(config: Config) -> OrientationLaw | None:
    """The distribution of orientations a config asks for; None for a uniform one."""
    if config.orientations == "uniform":
        return None
    return OrientationLaw(config.orientation_spread, config.orientation_uniform)


def unknown_facts(config: Config) -> dict[str, object]:
    """What truth.json says of orientations, junk, tilts and of the errors of particles.star, where there are any."""
    facts: dict[str, object] = {}
    if config.orientations == "preferred":
        facts["orientation_spread"] = config.orientation_spread
        facts["orientation_uniform"] = config.orientation_uniform
    if config.junk:
        facts["junk_kinds"] = list(KINDS)
    names = ("junk", "tilt_pairs", "pose_error", "shift_error", "defocus_error")
    return facts | {name: getattr(config, name) for name in names if getattr(config, name)}


def noise_facts(config: Config, recipe: Recipe, draw: Draw, level: NoiseLevel | None) -> dict[str, object]:
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
        "snr": recipe.snr,
        "snr_pixel_size": recipe.snr_pixel_size or draw.grid.pixel_size,
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
        facts = facts | {"circular": list(specimen.molecule.circular)}
        save_ensemble(folder, specimen.molecule.body.scaled(draw.scale))
    if draw.optics is not None:
        optics = draw.optics
        write_npy(folder / "defocus.npy", torch.stack([optics.defocus_u, optics.defocus_v], dim=1).numpy())
    write_truth(
        folder,
        latent=_array(conformations.latent),
        state=conformations.state.numpy(),
        rotation=draw.pose.rotation.numpy(),
        shift=draw.pose.shift.numpy(),
        junk=None if draw.junk is None else draw.junk.is_junk.numpy(),
        volumes=write_state_volumes(folder / "volumes", draw),
        volume_latents=_array(conformations.state_latents),
        facts=facts,
    )


def _array(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()

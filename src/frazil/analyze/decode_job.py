"""The work of `frazil decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from frazil.analyze import decoding, validation
from frazil.analyze.chimerax import chimerax_script
from frazil.analyze.molstar import scene
from frazil.analyze.reconstruction import Reconstruction, read_reconstruction
from frazil.engine.files import write_npy, write_text
from frazil.errors import InputError
from frazil.figures import raymarch, style

if TYPE_CHECKING:
    from frazil.analyze.decode import Config
    from frazil.engine.job import Job


def run_decode(config: Config, job: Job) -> None:
    """Write a map for every latent point asked for.

    Raises:
        InputError: no ensemble in the job, points that do not fit it, or neither points nor particles given.
    """
    reconstruction = read_reconstruction(config.job, config.pixel_size)
    ensemble = reconstruction.ensemble().to(job.device)
    points = _points(config, reconstruction, ensemble.latent_dim)
    grid = decoding.decoding_grid(ensemble.grid, config.box)
    folder = job.outputs / "volumes"
    folder.mkdir(exist_ok=True)
    stems = [folder / f"volume_{i:03d}" for i in range(len(points))]
    paths = [stem.with_suffix(".mrc") for stem in stems]
    volumes, _ = decoding.decode_to_files(ensemble, points, grid, paths, job, "decoding")
    write_npy(job.outputs / "latent.npy", points.astype(np.float32))
    good = f"{len(paths)} maps of {grid.box_size}³ voxels at {grid.pixel_size:g} Å"
    worth: dict[str, list[validation.PairSummary]] = {}
    halves = reconstruction.half_ensembles()
    if halves is not None:
        finest = reconstruction.finest_resolution()
        worth["model"] = validation.decode_pairs(halves, points, grid, stems, job, config.seed, finest)
        good += f", median resolution {np.median([pair.resolution for pair in worth['model']]):.2f} Å"
    if config.from_images:
        made = validation.maps_from_images(reconstruction, ensemble, points, grid, stems, job, config.seed)
        worth["images"] = made.pairs
        paths += made.files
        good += f", as many from {min(made.counts)} to {max(made.counts)} images"
    if worth:
        write_text(job.outputs / "resolution.csv", _resolution_table(worth))
    level = float(np.median([raymarch.contour_level(volume) for volume in volumes[:20]]))
    heading = f"{len(paths)} maps decoded from {config.job}"
    colours = style.state_colours(8)
    series = {"morph through the maps": paths[: len(points)]} if len(points) > 1 else {}
    script = chimerax_script(paths, job.folder, level, colours=colours, series=series, heading=heading)
    write_text(job.folder / "open.cxc", script)
    write_text(job.folder / "open.mvsj", scene(paths, job.folder, level, colours, heading))
    job.made(folder, good, f"chimerax {job.folder / 'open.cxc'}")


def _resolution_table(worth: dict[str, list[validation.PairSummary]]) -> str:
    """The resolution (Å, FSC 0.143) of every map, of the model and from images, as text."""
    names = list(worth)
    lines = [",".join(["map", *(f"{name}_resolution" for name in names)])]
    for i, pairs in enumerate(zip(*worth.values(), strict=True)):
        lines.append(",".join([str(i), *(f"{pair.resolution:.3f}" for pair in pairs)]))
    return "\n".join(lines) + "\n"


def _points(config: Config, reconstruction: Reconstruction, latent_dim: int) -> np.ndarray:
    if (config.latent is None) == (config.particles is None):
        raise InputError(
            "give either --latent or --particles" + (", not both" if config.latent is not None else ""),
            remedy="for example --particles 0-9",
        )
    if config.latent is not None:
        return decoding.as_latent_points(decoding.read_latent_points(config.latent), latent_dim, config.latent)
    if reconstruction.latent is None:
        raise InputError("this job holds no latent.npy", where=config.job, remedy="give the points with --latent")
    rows = decoding.read_particle_rows(str(config.particles), len(reconstruction.latent))
    return decoding.as_latent_points(reconstruction.latent[rows].astype(np.float64), latent_dim, "--particles")

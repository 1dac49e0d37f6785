"""The work of `frazil export`: from `Particles` to the files of other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from frazil.data.cryodrgn import read_ctf, read_indices, read_pose, write_ctf, write_pose
from frazil.data.cs import cs_columns, write_cs
from frazil.data.stack import Particles, read_particles, write_particles_star
from frazil.data.table import Block
from frazil.engine.files import atomic_write
from frazil.errors import InputError

if TYPE_CHECKING:
    from frazil.data.export import Config
    from frazil.engine.job import Job


def convert(config: Config, job: Job) -> None:
    """Read the particles, complete them from pickles, and write what is asked for."""
    particles = gathered(config)
    for note in (*particles.warnings, *(losses_in_cryodrgn(particles) if config.to == "cryodrgn" else ())):
        job.log(f"note: {note}")
    said = [f"{particles.count} particles"]
    said += [name for name, value in (("poses", particles.pose), ("CTF", particles.optics)) if value is not None]
    made = {
        "relion": export_relion,
        "cryosparc": export_cryosparc,
        "cryodrgn": export_cryodrgn,
        "numpy": export_numpy,
    }[config.to](particles, job.outputs)
    job.made(made, ", ".join(said), f"frazil inspect {made}")


def gathered(config: Config) -> Particles:
    """The particles with the poses, CTF and selection of cryoDRGN pickles, where given."""
    particles = read_particles(
        config.particles,
        config.images,
        pixel_size=config.pixel_size,
        box_size=config.box_size,
        need_images=config.images is not None,
    )
    if config.poses is not None:
        particles = particles.given(pose=read_pose(config.poses, torch.from_numpy(extents(particles))))
    if config.ctf is not None:
        particles = particles.given(optics=read_ctf(config.ctf)[2])
    if config.select is not None:
        rows = read_indices(config.select)
        if len(rows) and (rows.min() < 0 or rows.max() >= particles.count):
            raise InputError(
                f"particle {rows.max()} is selected, there are {particles.count}",
                where=config.select,
                remedy="give the index file that belongs to these particles (it counts from 0)",
            )
        particles = particles[rows]
    return particles


def extents(particles: Particles) -> np.ndarray:
    """(N,) side of each particle's box, Å. Raises InputError when it is not known."""
    return np.array([grid.extent for grid in particles.grids])[particles.group.numpy()]


def export_relion(particles: Particles, folder: Path) -> Path:
    """`particles.star`, RELION 3.1, every input column kept."""
    path = folder / "particles.star"
    write_particles_star(particles, path)
    return path


def export_cryosparc(particles: Particles, folder: Path) -> Path:
    """`particles.cs`, see `write_particles_cs`."""
    path = folder / "particles.cs"
    write_particles_cs(particles, path)
    return path


def write_particles_cs(particles: Particles, path: Path) -> None:
    """Write particles for cryoSPARC: of a cryoSPARC input every field, of others uid, blob, and ctf and alignments3D
    where known."""
    folder = path.parent
    listing = particles.listing
    whole = cs_columns(listing, particles.rows, particles.pose, particles.optics, particles.half_set)
    linked = {number: _relative(listing.files.find(number), folder) for number in range(len(listing.files.names))}
    names = [linked[number] or listing.files.names[number] for number in range(len(listing.files.names))]
    whole["blob/path"] = np.array([name.encode() for name in names])[listing.file[particles.rows]]
    if "blob/path" in listing.block:
        block = listing.block.select(particles.rows)
        groups = {"pose": "alignments3D/", "optics": "ctf/"}
        changed = tuple(prefix for name, prefix in groups.items() if name in particles.changed)
        new = {name: values for name, values in whole.items() if name == "blob/path" or name.startswith(changed)}
        block = block.with_columns(new)
    else:
        block = Block("particles", whole, particles.count, path=path)
    write_cs(path, block)


def export_cryodrgn(particles: Particles, folder: Path) -> Path:
    """`pose.pkl` and `ctf.pkl`, each where known."""
    if particles.pose is None and particles.optics is None:
        raise InputError(
            "there are neither poses nor CTF to export", where=particles.path, remedy="give a refined particle table"
        )
    made = []
    if particles.pose is not None:
        write_pose(folder / "pose.pkl", particles.pose, torch.from_numpy(extents(particles)))
        made.append(folder / "pose.pkl")
    if particles.optics is not None:
        grids, group = particles.grids, particles.group.numpy()
        boxes = np.array([grid.box_size for grid in grids])[group]
        sizes = np.array([grid.pixel_size for grid in grids])[group]
        write_ctf(folder / "ctf.pkl", particles.optics, boxes, sizes)
        made.append(folder / "ctf.pkl")
    return made[0]


def losses_in_cryodrgn(particles: Particles) -> Iterator[str]:
    """What cryoDRGN has no room for, or takes otherwise than it is meant."""
    grids = set(particles.grids)
    if len(grids) > 1:
        yield "cryoDRGN takes the box and pixel size of the first particle for all of them"
    if any(grid.box_size % 2 for grid in grids):
        yield "cryoDRGN takes even boxes only"
    optics = particles.optics
    if optics is not None and (optics.has_beam_tilt or bool((optics.b_factor != 0).any())):
        yield "cryoDRGN has no beam tilt and no B factor: they are left out"
    if particles.tilts is not None:
        yield "pose.pkl and ctf.pkl do not tell tilt pairs: cryoDRGN takes every view for a particle of its own"


def export_numpy(particles: Particles, folder: Path) -> Path:
    """`arrays.npz`: one array per quantity, one entry per particle, frazil's conventions and units."""
    groups = particles.listing.groups
    group = particles.group.numpy()
    arrays: dict[str, np.ndarray] = {
        "uid": particles.uid,
        "image_name": np.array([particles.name(row) for row in range(particles.count)]),
        "optics_group": group,
        "pixel_size": np.array([known.pixel_size for known in groups])[group],
        "box_size": np.array([known.box_size for known in groups])[group],
    }
    if particles.half_set is not None:
        arrays["half_set"] = particles.half_set.numpy()
    for value in (particles.pose, particles.optics):
        if value is not None:
            arrays |= {name: tensor.numpy() for name, tensor in value.__dict__.items()}
    path = folder / "arrays.npz"
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def _relative(found: Path | None, folder: Path) -> str | None:
    return None if found is None else os.path.relpath(found.resolve(), folder.resolve())

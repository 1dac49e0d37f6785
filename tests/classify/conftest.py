"""A small stack whose images show one of two very different pictures, a fifth of them nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.data.mrc import write_stack
from frazil.data.stack import write_new_particles_star
from frazil.numerics.fourier import coefficients_to_images, images_to_coefficients
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics

GRID = Grid(32, 6.0)


@dataclass(frozen=True)
class Stack:
    """A stack and what is true of it: the kind of each image (0 and 1; -1 for noise), its shift in Å and its angle."""

    path: Path
    kind: np.ndarray
    shift: torch.Tensor
    angle: torch.Tensor


def picture(kind: int, angle: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A row of three blobs, or a triangle with a heavy corner; places in Å, turned counter-clockwise and then moved."""
    places = {
        0: ((-40.0, 0.0, 1.0), (0.0, 0.0, 1.0), (40.0, 0.0, 1.0)),
        1: ((0.0, 30.0, 2.0), (-26.0, -30.0, 1.0), (26.0, -30.0, 1.0)),
    }[kind]
    axis = (torch.arange(GRID.box_size) - GRID.box_size // 2) * GRID.pixel_size
    image = torch.zeros(GRID.box_size, GRID.box_size)
    for x, y, weight in places:
        across = angle.cos() * x - angle.sin() * y + shift[0]
        up = angle.sin() * x + angle.cos() * y + shift[1]
        image += weight * torch.exp(-((axis - across) ** 2 + (axis[:, None] - up) ** 2) / (2 * 11.0**2))
    return image


def write_pictures(folder: Path, count: int, seed: int, sign: float = 1.0) -> Stack:
    """Images with CTF, shifts of up to 9 Å and noise."""
    generator = torch.Generator().manual_seed(seed)
    kind = np.arange(count) % 5
    kind = np.where(kind == 4, -1, kind % 2)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    shift = 18 * torch.rand(count, 2, generator=generator) - 9
    layout = GRID.half_plane()
    optics = Optics.make(
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
        defocus_u=10000 + 10000 * torch.rand(count, generator=generator).double(),
    )
    clean = torch.stack(
        [torch.zeros(32, 32) if k < 0 else picture(int(k), angle[i], shift[i]) for i, k in enumerate(kind)]
    )
    images = coefficients_to_images(images_to_coefficients(clean, layout) * optics.ctf(GRID, layout).float(), layout)
    images = sign * images + 0.25 * torch.randn(images.shape, generator=generator)
    path = folder / "particles.star"
    write_stack(folder / "particles.mrcs", images, GRID.pixel_size)
    write_new_particles_star(path, folder / "particles.mrcs", GRID, optics=optics, extra={"rlnMicrographMark": kind})
    return Stack(path, kind, shift, angle)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 300, 1)

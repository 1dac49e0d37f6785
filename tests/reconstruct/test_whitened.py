"""Coefficients of a stack: what they are, that a disk gives what memory gives, and what happens when memory is out."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from frazil.data.mrc import write_stack
from frazil.data.particle_star import write_new_particles_star
from frazil.data.stack import Particles, read_particles
from frazil.errors import InputError
from frazil.inference.coefficient_posteriors import GaussianPrior
from frazil.numerics.spectrum_table import table_layout, zero_table
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct import expectation
from frazil.reconstruct.expectation import Expectation, Pass
from frazil.reconstruct.whitened import STORED, WhitenedImages

COUNT = 150  # more than two chunks
BANDS = (3, 5)


def particles(folder: Path, box: int) -> Particles:
    """Noise with random poses, half-sets and defocus."""
    generator = torch.Generator().manual_seed(box)
    grid, star = Grid(box, 4.0), folder / "noise.star"
    write_stack(folder / "noise.mrcs", torch.randn(COUNT, box, box, generator=generator), grid.pixel_size)
    defocus = 8000 + 14000 * torch.rand(COUNT, generator=generator)
    optics = Optics.make(voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=defocus, dtype=torch.float32)
    half_set = torch.randint(2, (COUNT,), generator=generator)
    pose = Pose.random(COUNT, 5.0, generator)
    write_new_particles_star(star, folder / "noise.mrcs", grid, pose=pose, optics=optics, half_set=half_set)
    return read_particles(star)


def whitened(particles: Particles, file: Path | None = None, **options) -> WhitenedImages:
    grid = particles.grid
    noise = torch.linspace(1, 2, grid.box_size)[None] * grid.box_size**2
    return WhitenedImages(particles, grid.last_shell, noise, sign=1.0, file=file, bands=BANDS, **options)


def pass_over(images: WhitenedImages, band: int) -> Expectation:
    """A pass with random volumes over half-set A."""
    layout, plane = table_layout(band), images.grid.half_plane(band)
    table = zero_table(layout, 3)
    table += 0.1 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    plan = Pass(layout, plane, GaussianPrior(), residual=True)
    return plan.over(images, images.own(0), table, torch.ones(len(images), 2))


@pytest.mark.parametrize("box", [15, 16])
def test_a_coefficient_is_the_centred_spectrum_over_the_root_of_half_its_noise(tmp_path, box):
    stack = particles(tmp_path, box)
    images = whitened(stack, tmp_path / "coefficients")
    values, _ = images.chosen(torch.arange(len(images)), images.plane.count)
    row = 7
    raw = stack.images(images.order[row : row + 1])[0].double().numpy()
    assert stack.pose is not None
    shift = stack.pose.shift[images.order[row]].double().numpy() / stack.grid.pixel_size
    # the transform written out, with the particle's place as the origin
    at = np.arange(box) - box // 2
    x, y = images.plane.x.numpy(), images.plane.y.numpy()
    to_x = np.exp(-2j * np.pi * x[:, None] * (at - shift[0]) / box)
    to_y = np.exp(-2j * np.pi * y[:, None] * (at - shift[1]) / box)
    noise = np.linspace(1, 2, box)[images.plane.shell.numpy()] * box**2
    wanted = np.einsum("ky,yx,kx->k", to_y, raw, to_x) * np.sqrt(2 / noise)
    wanted[0] = 0  # the mean is left out
    np.testing.assert_allclose(torch.view_as_complex(values[row]).numpy(), wanted, atol=0.01)


@pytest.mark.parametrize("box", [15, 16])
@pytest.mark.parametrize("band", [2, 3, 4, 5, 7])
def test_the_disk_gives_any_images_at_any_band_as_memory_does(tmp_path, box, band):
    stack = particles(tmp_path, box)
    count = stack.grid.half_plane(band).count
    rows = torch.randint(COUNT, (40,), generator=torch.Generator().manual_seed(3))
    (values, factor), (same, also) = (
        whitened(stack, file).chosen(rows, count) for file in (None, tmp_path / "coefficients")
    )
    assert torch.equal(values, same) and torch.equal(factor, also)


@pytest.mark.parametrize("band", [3, 4, 7])
def test_a_pass_over_the_disk_finds_what_one_over_memory_finds(tmp_path, monkeypatch, band):
    monkeypatch.setattr("frazil.reconstruct.whitened.SLICES_AT_ONCE", 20_000)
    monkeypatch.setattr("frazil.reconstruct.whitened.READ_AT_ONCE", 10_000)
    stack = particles(tmp_path, 16)
    one, other = (pass_over(whitened(stack, file), band) for file in (None, tmp_path / "coefficients"))
    for name in ("gradient", "second", "information", "first", "evidence", "scale", "residual"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_of_a_low_band_no_more_is_read_than_it_has(tmp_path, monkeypatch):
    images = whitened(particles(tmp_path, 16), tmp_path / "coefficients")
    read, plain = [], os.preadv

    def counted(handle: int, buffers: list[memoryview], offset: int) -> int:
        read.append(plain(handle, buffers, offset))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    pass_over(images, BANDS[0])
    assert sum(read) == images.counts[0] * images.grid.half_plane(BANDS[0]).count * STORED


def test_the_file_is_nobodys_once_it_is_open(tmp_path):
    images = whitened(particles(tmp_path, 16), tmp_path / "coefficients")
    assert not (tmp_path / "coefficients").exists() and len(images) == COUNT


def test_a_full_disk_is_told_before_anything_is_read(tmp_path, monkeypatch):
    stack, told = particles(tmp_path, 16), []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match="the disk has 0.0 GB free") as error:
        whitened(stack, tmp_path / "coefficients", advance=told.append)
    assert "--basis.cache memory" in str(error.value) and not told


class Narrow:
    """Makes slices of few images only."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, []
        self.plain = expectation.gather_table

    def __call__(self, table: Tensor, layout, rotation: Tensor, *rest) -> Tensor:
        self.asked.append(len(rotation))
        if len(rotation) > self.most:
            raise MemoryError
        return self.plain(table, layout, rotation, *rest)


@pytest.mark.parametrize("on_disk", [False, True])
def test_out_of_memory_a_pass_goes_on_with_fewer_images_and_finds_the_same(tmp_path, monkeypatch, on_disk):
    said: list[str] = []
    images = whitened(particles(tmp_path, 16), tmp_path / "coefficients" if on_disk else None, log=said.append)
    wanted = pass_over(images, 7)
    narrow = Narrow(10)
    monkeypatch.setattr(expectation, "gather_table", narrow)
    found = pass_over(images, 7)
    for name in ("gradient", "second", "information", "first", "evidence", "scale", "residual"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-3, rtol=1e-4)
    assert said == [f"out of memory with {images.counts[0]} images at once: going on with fewer"]


def test_the_next_pass_remembers_how_many_images_memory_has_room_for(tmp_path, monkeypatch):
    images = whitened(particles(tmp_path, 16))
    narrow = Narrow(10)
    monkeypatch.setattr(expectation, "gather_table", narrow)
    pass_over(images, 7)
    narrow.asked.clear()
    pass_over(images, 7)
    assert max(narrow.asked) <= 10


def test_memory_out_with_one_image_is_an_error(tmp_path, monkeypatch):
    images = whitened(particles(tmp_path, 16))
    monkeypatch.setattr(expectation, "gather_table", Narrow(0))
    with pytest.raises(MemoryError):
        pass_over(images, 7)


def test_any_other_error_is_raised_at_once(tmp_path, monkeypatch):
    images = whitened(particles(tmp_path, 16))

    def broken(*_: object) -> Tensor:
        raise RuntimeError("not of memory")

    monkeypatch.setattr(expectation, "gather_table", broken)
    with pytest.raises(RuntimeError, match="not of memory"):
        pass_over(images, 7)

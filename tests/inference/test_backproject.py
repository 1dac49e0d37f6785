"""Backprojection: the compiled pass against its parts, and the map against the truth."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.inference import backproject_compiled as compiled
from frazil.inference.backproject import backproject, imaging_parameters, insert_by_parts
from frazil.inference.half_map import HalfMap
from frazil.numerics.fourier import coefficients_to_images
from frazil.numerics.masks import soft_sphere
from frazil.numerics.shells import first_shell_below, shell_correlation
from frazil.numerics.slices import insert_slices, spectrum_shape
from frazil.numerics.symmetry import point_group
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose


@dataclass
class MemoryStack:
    """What backprojection asks of a stack, held in memory."""

    stacks: list[torch.Tensor]
    grids: tuple[Grid, ...]
    group: torch.Tensor
    pose: Pose
    optics: Optics | None
    half_set: torch.Tensor
    path: Path = field(default=Path("memory.star"))

    @property
    def count(self) -> int:
        return len(self.group)

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        group = int(self.group[rows[0]])
        before = torch.cumsum(self.group == group, 0) - 1
        return self.stacks[group][before[rows]]

    def chunks(self, size: int, rows: torch.Tensor | None = None):
        rows = torch.arange(self.count) if rows is None else rows
        for part in rows.split(size):
            yield part, self.images(part)


def _molecule(extent: float, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    centres = (torch.randn(30, 3, generator=generator) * 0.09 * extent).clamp(-0.25 * extent, 0.25 * extent)
    return Gaussians(
        centres.double(), torch.rand(30, generator=generator).double() + 0.5, torch.full((30,), 6.0).double()
    )


def _optics(count: int, generator: torch.Generator, tilt: float = 0.0) -> Optics:
    defocus = 8000 + 14000 * torch.rand(count, generator=generator)
    return Optics.make(
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
        defocus_u=defocus + 300,
        defocus_v=defocus,
        defocus_angle=180 * torch.rand(count, generator=generator),
        phase_shift=10.0,
        b_factor=30.0,
        beam_tilt_x=tilt,
        beam_tilt_y=-tilt,
    )


def _images(density: Gaussians, pose: Pose, optics: Optics | None, grid: Grid) -> torch.Tensor:
    layout = grid.half_plane()
    return coefficients_to_images(Microscope(density).image(pose, optics, grid, layout), layout).float()


def _stack(grid: Grid, count: int, noise: float, seed: int = 0) -> tuple[MemoryStack, Gaussians]:
    generator = torch.Generator().manual_seed(seed)
    density = _molecule(grid.extent)
    pose, optics = Pose.random(count, 6.0, generator, torch.float64), _optics(count, generator)
    images = _images(density, pose, optics, grid)
    images = images + noise * images.std() * torch.randn(images.shape, generator=generator)
    zeros = torch.zeros(count, dtype=torch.int64)
    return MemoryStack([images], (grid,), zeros, pose, optics, torch.arange(count) % 2), density


@pytest.mark.parametrize("grid", [Grid(32, 4.0), Grid(33, 4.0)])
@pytest.mark.parametrize("tilt", [0.0, 1.0])
def test_the_compiled_pass_equals_its_parts(grid: Grid, tilt: float):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, grid.box_size, grid.box_size, generator=generator)
    pose, optics = Pose.random(12, 9.0, generator, torch.float64), _optics(12, generator, tilt)
    shells = torch.linspace(1, 0.2, grid.box_size // 2 + 1)
    weight = torch.rand(12, generator=generator)
    parts, whole = HalfMap.empty(grid), HalfMap.empty(grid)
    insert_by_parts(images, pose, optics, grid, weight[:, None] * shells[grid.half_plane().shell], parts)
    table = imaging_parameters(optics, pose, grid, grid, 2, 0, weight)
    compiled.insert_images(
        torch.fft.rfft2(images).numpy(),
        np.arange(12),
        pose.rotation.float().numpy(),
        table,
        shells[None].numpy(),
        grid.last_shell,
        whole.sums.numpy(),
    )
    torch.testing.assert_close(whole.sums, parts.sums, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("grid", [Grid(32, 4.0), Grid(33, 4.0)])
def test_noise_free_images_give_back_their_density(grid: Grid):
    stack, density = _stack(grid, 1500, 0.0)
    a, b = backproject(stack, grid, "C1")  # type: ignore[arg-type]
    truth = density.voxels(grid).float()
    volume = (a + b).volume()
    curve = shell_correlation(volume, truth)
    assert float(curve[1 : int(0.8 * grid.last_shell)].min()) > 0.97
    scale = float((volume * truth).sum() / truth.square().sum())
    assert scale == pytest.approx(1.0, abs=0.08)


def test_half_maps_of_noisy_images_agree_as_far_as_the_truth_does():
    grid = Grid(32, 4.0)
    stack, density = _stack(grid, 600, 3.0)
    a, b = (half.volume() for half in backproject(stack, grid, "C1"))  # type: ignore[arg-type]
    halves = first_shell_below(shell_correlation(a, b), 0.143)
    truth = first_shell_below(shell_correlation(a + b, density.voxels(grid).float()), 0.5)
    assert halves > 6
    # an FSC of 0.143 between halves is one of 0.5 between their sum and the truth (Rosenthal and Henderson 2003)
    assert halves == pytest.approx(truth, abs=1.5)


def test_images_of_several_groups_with_other_pixels_and_boxes_make_one_map():
    grids = (Grid(32, 4.0), Grid(40, 3.2), Grid(36, 4.0))
    generator = torch.Generator().manual_seed(2)
    density = _molecule(grids[0].extent)
    group = torch.arange(900) % 3
    pose, optics = Pose.random(900, 5.0, generator, torch.float64), _optics(900, generator)
    stacks = []
    for index, grid in enumerate(grids):
        rows = torch.nonzero(group == index)[:, 0]
        images = _images(density, pose[rows], optics[rows], grid)
        # what normalising to unit noise does: noise per pixel falls with its side, signal per pixel with its area
        stacks.append(images * (grid.pixel_size / grids[0].pixel_size) ** 2)
    stack = MemoryStack(stacks, grids, group, pose, optics, torch.arange(900) // 3 % 2)
    a, b = backproject(stack, grids[0], "C1")  # type: ignore[arg-type]
    curve = shell_correlation((a + b).volume(), density.voxels(grids[0]).float())
    assert float(curve[1:11].min()) > 0.97


@pytest.mark.parametrize("name", ["C4", "D2", "O", "C3", "T", "I1"])
def test_symmetrising_equals_inserting_every_symmetry_mate(name: str):
    grid = Grid(24, 4.0)
    layout = grid.half_plane()
    generator = torch.Generator().manual_seed(3)
    density = _molecule(grid.extent)
    pose = Pose.random(150, 0.0, generator, torch.float64)
    slices = density.project(pose, grid, layout)
    group = point_group(name)
    sums = []
    for rotations in (group[:1], group):
        half = HalfMap.empty(grid)
        for turn in rotations:
            for part, values in enumerate((slices, torch.ones_like(slices))):
                target = torch.zeros(spectrum_shape(layout.band, 2), dtype=torch.complex128)
                insert_slices(values, pose.rotation @ turn.T, layout, 2, target)
                half.sums[..., 0 if part == 0 else 2] += target.real
                half.sums[..., 1] += target.imag * (part == 0)
        sums.append(half)
    once, all_mates = sums[0].completed(name).volume(), sums[1].completed("C1").volume()
    curve = shell_correlation(once, all_mates)
    # rotations that permute the axes are exact, the others read between grid points
    if name in ("C4", "D2", "O"):
        assert float(curve[1:8].min()) > 0.9999
    else:
        assert float(curve[1:6].min()) > 0.97


def test_an_image_told_to_be_twice_as_strong_counts_as_four_of_strength_one():
    grid = Grid(24, 4.0)
    stack, _ = _stack(grid, 60, 1.0)
    scale = 1 + torch.arange(60) % 3 / 2
    noise = np.ones((1, 14), np.float32)
    plain = backproject(stack, grid, weight=scale**2, noise=noise)
    stack.stacks[0] = stack.stacks[0] * scale[:, None, None]
    for half, expected in zip(backproject(stack, grid, scale=scale, noise=noise), plain, strict=True):
        torch.testing.assert_close(half.sums, expected.sums, rtol=1e-4, atol=1e-4 * float(expected.sums.abs().max()))


def test_an_image_of_weight_two_counts_as_two_and_one_of_weight_zero_is_not_read():
    grid = Grid(24, 4.0)
    stack, _ = _stack(grid, 60, 1.0)
    weight = torch.arange(60) % 3
    rows = torch.repeat_interleave(torch.arange(60), weight)
    assert stack.optics is not None
    repeated = MemoryStack(
        [stack.stacks[0][rows]], (grid,), stack.group[rows], stack.pose[rows], stack.optics[rows], rows % 2
    )
    noise = np.ones((1, 14), np.float32)
    stack.stacks[0][weight == 0] = torch.nan
    once = backproject(stack, grid, weight=weight.float(), noise=noise)
    for half, expected in zip(once, backproject(repeated, grid, noise=noise), strict=True):
        torch.testing.assert_close(half.sums, expected.sums, atol=1e-3, rtol=1e-4)


def test_weights_that_single_out_one_conformation_give_its_density():
    grid = Grid(24, 4.0)
    generator = torch.Generator().manual_seed(4)
    densities = [_molecule(grid.extent, seed) for seed in (0, 5)]
    pose = Pose.random(800, 5.0, generator, torch.float64)
    images = torch.cat([_images(density, pose[part::2], None, grid) for part, density in enumerate(densities)])
    order = torch.cat([torch.arange(0, 800, 2), torch.arange(1, 800, 2)])
    stack = MemoryStack(
        [images], (grid,), torch.zeros(800, dtype=torch.int64), pose[order], None, torch.arange(800) % 2
    )
    conformation = order % 2
    for part in range(2):
        weight = torch.where(conformation == part, 1.0, 0.01)
        a, b = backproject(stack, grid, weight=weight)
        own, other = (
            float(shell_correlation((a + b).volume(), density.voxels(grid).float())[2:9].mean())
            for density in (densities[part], densities[1 - part])
        )
        assert own > 0.97
        assert other < 0.8


def test_a_negative_weight_is_refused():
    grid = Grid(24, 4.0)
    stack, _ = _stack(grid, 10, 1.0)
    with pytest.raises(ValueError, match="weights of images are 0 or more"):
        backproject(stack, grid, weight=torch.linspace(-1, 1, 10))


def test_the_hand_of_the_density_is_kept():
    grid = Grid(32, 4.0)
    stack, density = _stack(grid, 500, 0.0)
    a, b = backproject(stack, grid, "C1")  # type: ignore[arg-type]
    truth = density.voxels(grid).float()
    sphere = soft_sphere(32, 12, 3)
    right = shell_correlation((a + b).volume() * sphere, truth * sphere)[3:12].mean()
    wrong = shell_correlation((a + b).volume().flip(0) * sphere, truth.roll(1, 0) * sphere)[3:12].mean()
    assert float(right) > 0.95 > 0.8 > float(wrong)


def test_the_same_particles_give_the_same_bits():
    grid = Grid(24, 4.0)
    stack, _ = _stack(grid, 100, 1.0)
    first, second = (backproject(stack, grid, "C2")[0].sums for _ in range(2))  # type: ignore[arg-type]
    assert np.array_equal(first.numpy(), second.numpy())

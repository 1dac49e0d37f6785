"""Slices of many volumes at once: the same as one by one, exactly adjoint, and equal on the twins."""

import pytest
import torch

from frazil.numerics.fourier import half_plane
from frazil.numerics.masks import soft_sphere
from frazil.numerics.rotations import random_rotations
from frazil.numerics.slices import extract_slices, padded_spectrum
from frazil.numerics.spectrum_table import (
    complete_axis_plane,
    gather_table,
    scatter_shares,
    scatter_table,
    shell_means,
    symmetrise_table,
    table_corners,
    table_layout,
    table_of_volumes,
    table_voxels,
    volumes_of_table,
)
from frazil.numerics.symmetry import point_group

BOXES = pytest.mark.parametrize("box", [20, 21])


def some(box: int, volumes: int = 3, images: int = 6):
    generator = torch.Generator().manual_seed(box)
    mask = soft_sphere(box, 0.3 * box, 2)
    values = torch.randn(volumes, box, box, box, generator=generator) * mask
    plane, layout = half_plane(box), table_layout((box - 1) // 2)
    rotation = random_rotations(images, generator).to(torch.float32)
    factor = torch.randn(images, plane.count, generator=generator)
    return values, plane, layout, rotation, factor


@BOXES
def test_slices_of_a_table_are_those_of_each_volume(box):
    values, plane, layout, rotation, factor = some(box)
    slices = gather_table(table_of_volumes(values, layout), layout, rotation, plane, factor)
    for k, volume in enumerate(values):
        alone = extract_slices(padded_spectrum(volume, plane.band, 2), rotation, plane, 2) * factor
        torch.testing.assert_close(torch.view_as_complex(slices[..., k].contiguous()), alone, atol=2e-4, rtol=1e-5)


@BOXES
def test_gather_and_scatter_are_adjoint(box):
    values, plane, layout, rotation, factor = some(box)
    table = table_of_volumes(values, layout)
    slices = gather_table(table, layout, rotation, plane, factor)
    other = torch.randn_like(slices)
    back = torch.zeros_like(table)
    scatter_table(other, layout, rotation, plane, factor, back)
    left, right = (slices.double() * other).sum(), (table.double() * back).sum()
    assert abs(left - right) < 1e-5 * slices.norm() * other.norm()


@BOXES
@pytest.mark.parametrize("volumes", [1, 2, 7, 9])
def test_the_twins_of_gather_and_scatter_agree_with_the_compiled_loops(box, volumes):
    values, plane, layout, rotation, factor = some(box, volumes)
    table = table_of_volumes(values, layout)
    compiled = gather_table(table, layout, rotation, plane, factor)
    index, weight, mirrored = table_corners(layout, rotation, plane)
    signs = torch.stack((factor, torch.where(mirrored, -factor, factor)), -1)[..., None]
    twin = (table[index] * weight[..., None, None]).sum(-3) * signs
    torch.testing.assert_close(compiled, twin, atol=2e-4, rtol=1e-5)
    scattered, spread = torch.zeros_like(table), torch.zeros_like(table)
    scatter_table(compiled, layout, rotation, plane, factor, scattered)
    values = (compiled * signs)[..., None, :, :] * weight[..., None, None]
    spread.index_add_(0, index.reshape(-1), values.reshape(-1, *table.shape[1:]))
    torch.testing.assert_close(scattered, spread, atol=1e-3 * float(spread.abs().max()), rtol=1e-3)


@BOXES
def test_images_are_added_to_each_table_in_their_share_as_one_by_one(box):
    _, plane, layout, rotation, factor = some(box)
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(len(factor), plane.count, 2, generator=generator)
    share = torch.rand(len(factor), 3, 2, generator=generator)
    share[:, 1] = 0
    sums = torch.zeros(3, layout.count, 2, 2)
    scatter_shares(values, layout, rotation, plane, factor, share, sums)
    for table in range(3):
        alone = torch.zeros(layout.count, 2, 2)
        both = torch.zeros(len(factor), plane.count, 2, 2)
        both[..., 0] = values * share[:, table, :1, None]
        both[:, :, 0, 1] = factor * share[:, table, 1:]
        scatter_table(both, layout, rotation, plane, factor, alone)
        torch.testing.assert_close(sums[table], alone, atol=1e-5 * float(sums.abs().max()), rtol=1e-4)
    assert not bool(sums[1].any())


@pytest.mark.gpu
def test_slices_of_a_table_are_the_same_on_a_gpu():
    values, plane, layout, rotation, factor = some(20)
    table = table_of_volumes(values, layout)
    here = gather_table(table, layout, rotation, plane, factor)
    away = table_layout(layout.band, layout.padding, "cuda")
    there = gather_table(table.cuda(), away, rotation.cuda(), half_plane(20, device="cuda"), factor.cuda())
    torch.testing.assert_close(here, there.cpu(), atol=1e-3, rtol=1e-4)


@BOXES
def test_volumes_with_signal_inside_the_band_come_back_from_their_table(box):
    values, _, layout, _, _ = some(box)
    once = volumes_of_table(table_of_volumes(values, layout), layout, box)
    mask = soft_sphere(box, 0.3 * box, 2)
    smooth = once * mask
    again = volumes_of_table(table_of_volumes(smooth, layout), layout, box)
    inside = mask > 0.99
    correlation = torch.corrcoef(torch.stack((smooth[0][inside], again[0][inside])))[0, 1]
    assert correlation > 0.98  # the corners of the cube are beyond the band of the table


def test_symmetrised_tables_of_a_symmetric_volume_are_multiples_of_it():
    box = 24
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    x, y, z = axis[None, None, :], axis[None, :, None], axis[:, None, None]
    # fourth-order invariant of the octahedral group under a Gaussian
    volume = (1 + (x**4 + y**4 + z**4) / 500) * torch.exp(-(x**2 + y**2 + z**2) / 8)
    layout = table_layout(8)
    table = table_of_volumes(volume[None], layout)
    group = point_group("O")
    summed = symmetrise_table(table, layout, group)
    inside = layout.shell * layout.padding < layout.limit - 0.1
    torch.testing.assert_close(summed[inside], 24 * table[inside], atol=1e-3 * float(table.abs().max()) * 24, rtol=0)


def test_a_completed_axis_plane_is_hermitian():
    layout = table_layout(6)
    table = torch.randn(layout.count, 2, 2, generator=torch.Generator().manual_seed(1))
    complete_axis_plane(table, layout)
    own, mates = layout.axis_plane
    torch.testing.assert_close(table[own, 0], table[mates, 0])
    torch.testing.assert_close(table[own, 1], -table[mates, 1])


def test_shell_means_of_the_radius_are_the_shells():
    layout = table_layout(9)
    means = shell_means(layout.shell, layout)
    # shell 0 holds the origin and its neighbours at half a shell; the last one is cut
    torch.testing.assert_close(means[1:-1], torch.arange(1.0, len(means) - 1), atol=0.1, rtol=0)


@pytest.mark.parametrize("band", [1, 8, 23])
def test_voxels_are_counted_without_a_layout(band: int):
    assert table_voxels(band) == table_layout(band).count

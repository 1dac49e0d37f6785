"""Hierarchical search: analytic images of known poses, and what must come back."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from frazil.inference.hierarchical_search import (
    Candidates,
    Hierarchy,
    linear_bands,
    search_poses,
    square_of_shifts,
    whole_grid,
)
from frazil.inference.matching import CoarseImages
from frazil.numerics.rotation_grid import grid_spacing
from frazil.numerics.rotations import geodesic_angle
from frazil.numerics.spectrum_table import TableLayout, table_layout, table_of_volumes
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

PIXEL = 3.0


@dataclass(frozen=True)
class Scene:
    """Images of Gaussians whose poses are known, the map of these, and how it is searched."""

    grid: Grid
    density: Gaussians
    images: CoarseImages
    pose: Pose
    table: torch.Tensor
    layout: TableLayout
    hierarchy: Hierarchy

    def search(self) -> Candidates:
        return search_poses(self.images, self.table, self.layout, self.grid.half_plane(), self.hierarchy)

    def errors(self, found: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """Degrees and pixels between the best pose of every image and the true one."""
        angle = torch.rad2deg(geodesic_angle(found.rotation[:, 0].double(), self.pose.rotation))
        return angle, (found.shift[:, 0] - self.pose.shift / PIXEL).norm(dim=1)


def scene(box_size: int = 48, noise: float = 0.0, count: int = 24, subdivisions: int = 4) -> Scene:
    """``noise``: standard deviation over that of the images' pixels."""
    grid, generator = Grid(box_size, PIXEL), torch.Generator().manual_seed(box_size)
    direction = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator, dtype=torch.float64), dim=1)
    centres = direction * torch.rand(60, 1, generator=generator, dtype=torch.float64) ** (1 / 3) * 0.26 * grid.extent
    density = Gaussians(centres, torch.ones(60, dtype=torch.float64), torch.full((60,), 3.6, dtype=torch.float64))
    pose = Pose.random(count, 5 * PIXEL, generator, torch.float64)
    defocus = 9000 + 9000 * torch.rand(count, generator=generator, dtype=torch.float64)
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0
    )
    plane = grid.half_plane()
    values = torch.view_as_real(Microscope(density).image(pose, optics, grid, plane))
    power = float(values.square().sum((1, 2)).mean()) * 2 / grid.box_size**2
    values = values + math.sqrt(power / 2) * noise * torch.randn(values.shape, generator=generator, dtype=torch.float64)
    shown = (plane.radius > 0).float()
    images = CoarseImages(values.float() * shown[:, None], optics.ctf(grid, plane).float() * shown)
    layout = table_layout(grid.last_shell)
    bands = linear_bands(10, grid.last_shell, subdivisions + 1)
    hierarchy = Hierarchy(2, bands, 8, square_of_shifts(7.0, 10))
    table = table_of_volumes(density.voxels(grid)[None].float(), layout)
    return Scene(grid, density, images, pose, table, layout, hierarchy)


@pytest.mark.parametrize("box_size", [48, 49])
def test_poses_of_clean_images_are_found_to_the_last_spacing(box_size: int) -> None:
    one = scene(box_size)
    angle, shift = one.errors(one.search())
    assert one.hierarchy.spacing < 1
    assert float(angle.max()) < one.hierarchy.spacing
    assert float(shift.max()) < 0.1


def test_poses_of_noisy_images_are_found_as_well_as_their_noise_allows() -> None:
    angle, shift = (one := scene(noise=2.0)).errors(one.search())
    assert float(angle.median()) < 2
    assert float(shift.median()) < 0.25
    assert float((angle < 10).double().mean()) > 0.9


def test_every_further_level_halves_the_error() -> None:
    medians = []
    for subdivisions in range(4):
        one = scene(subdivisions=subdivisions)
        # the same frequencies at the end, so that levels alone differ
        one = replace(one, hierarchy=replace(one.hierarchy, bands=(10, *[one.grid.last_shell] * subdivisions)))
        medians.append(float(one.errors(one.search())[0].median()))
    assert medians[0] < grid_spacing(2)
    for coarse, fine in zip(medians, medians[1:], strict=False):
        assert fine < 0.7 * coarse


@pytest.mark.parametrize("subdivisions", [0, 3])
def test_the_score_is_what_a_pose_takes_from_the_squared_error(subdivisions: int) -> None:
    one = scene(noise=1.0, count=5, subdivisions=subdivisions)
    found = one.search()
    plane = one.grid.half_plane(one.hierarchy.bands[-1])
    pose = Pose(found.rotation[:, 0].double(), found.shift[:, 0].double() * PIXEL)
    model = one.density.project(pose, one.grid, plane) * one.images.transfer[:, : plane.count]
    image = torch.view_as_complex(one.images.values[:, : plane.count].contiguous())
    fall = image.abs().square().sum(1) - (image - model).abs().square().sum(1)
    # interpolation in the table and, on the first grid, powers that are averaged over shells
    torch.testing.assert_close(found.score[:, 0].double(), fall.double(), rtol=0.05, atol=0)


def test_candidates_come_in_the_order_of_their_scores_and_are_all_different() -> None:
    found = (one := scene(count=4)).search()
    assert found.score.shape == (4, one.hierarchy.kept)
    assert bool((found.score.diff(dim=1) <= 0).all())
    pairs = geodesic_angle(*torch.broadcast_tensors(found.rotation[:, :, None], found.rotation[:, None]))
    assert float((pairs + 10 * torch.eye(8)).min()) > math.radians(one.hierarchy.spacing) / 3


def test_the_first_level_finds_the_nearest_rotation_of_the_grid() -> None:
    one = scene()
    found = whole_grid(one.images, one.table, one.layout, one.grid.half_plane(), one.hierarchy)
    angle, shift = one.errors(found)
    assert float(angle.max()) < grid_spacing(2)
    assert float(shift.max()) < 1.4  # the diagonal of a square of 1.4 px, and a little


def test_the_published_shifts_and_bands() -> None:
    shifts = square_of_shifts(10.0, 14)
    assert shifts.shape == (196, 2)
    assert float(shifts.max()) == pytest.approx(10 - 10 / 14)
    assert float(shifts[:, 0].unique().diff().mean()) == pytest.approx(20 / 14)
    assert linear_bands(12, 32, 5) == (12, 17, 22, 27, 32)
    assert linear_bands(12, 32, 1) == (12,)
    assert Hierarchy(2, linear_bands(12, 32, 5), 8, shifts).spacing == pytest.approx(0.92, abs=0.01)

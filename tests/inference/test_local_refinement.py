"""Local refinement: analytic images, disturbed poses and defoci, and what must come back."""

import dataclasses
import math

import pytest
import torch

from frazil.inference.local_refinement import PriorWidths, Refined, refine_poses
from frazil.numerics.rotations import from_rotation_vector, geodesic_angle, to_rotation_vector
from frazil.numerics.spectrum_table import gather_table, table_layout, table_of_volumes
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

GRIDS = pytest.mark.parametrize("grid", [Grid(48, 3.0), Grid(49, 3.0)])
FREE = PriorWidths(rotation=math.inf, shift=math.inf, defocus=math.inf, scale=math.inf)


@dataclasses.dataclass
class Scene:
    """Images of Gaussians whose poses, defoci and scales are known, and the map of these."""

    grid: Grid
    values: torch.Tensor
    gain: torch.Tensor
    pose: Pose
    optics: Optics
    scale: torch.Tensor
    table: torch.Tensor

    def refine(
        self, known: Pose, optics: Optics | None, prior: PriorWidths, band: int | None = None, **other
    ) -> Refined:
        plane = self.grid.half_plane(band)
        layout = table_layout(self.grid.last_shell)
        group = torch.zeros(len(self.values), dtype=torch.int64)
        return refine_poses(
            self.values[:, : plane.count], known, optics, self.grid, plane, self.gain[:, : plane.count], group,
            self.table, layout, prior, **other,
        )  # fmt: skip


def scene(grid: Grid, noise: float, count: int = 24) -> Scene:
    """``noise``: its standard deviation over that of the images' pixels; 0 for images without it."""
    generator = torch.Generator().manual_seed(grid.box_size)
    direction = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator, dtype=torch.float64), dim=1)
    centres = direction * torch.rand(60, 1, generator=generator, dtype=torch.float64) ** (1 / 3) * 0.26 * grid.extent
    amplitude = 50 * (torch.rand(60, generator=generator, dtype=torch.float64) + 0.5)
    density = Gaussians(centres, amplitude, torch.full((60,), 3.6, dtype=torch.float64))
    pose = Pose.random(count, 4.0, generator, torch.float64)
    defocus = 9000 + 9000 * torch.rand(count, generator=generator, dtype=torch.float64)
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=defocus + 300, defocus_v=defocus, defocus_angle=30.0,
        b_factor=20.0,
    )  # fmt: skip
    scale = 1 + 0.3 * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
    plane = grid.half_plane()
    images = Microscope(density).image(pose, optics, grid, plane) * scale[:, None]
    power = 2 * float(images.abs().square().sum(1).mean()) * (noise or 0.1) ** 2 / grid.box_size**2
    gain = torch.full((1, plane.count), math.sqrt(2 / power))
    gain[:, 0] = 0
    values = torch.view_as_real(images) * math.sqrt(2 / power)
    if noise:
        values = values + torch.randn(values.shape, generator=generator, dtype=torch.float64)
    table = table_of_volumes(density.voxels(grid)[None].float(), table_layout(grid.last_shell))
    return Scene(grid, values.float(), gain, pose, optics, scale, table)


def disturbed(scene: Scene, degrees: float, shift: float, candidates: int = 1) -> Pose:
    generator = torch.Generator().manual_seed(3)
    shape = (len(scene.values), candidates)
    axis = torch.nn.functional.normalize(torch.randn(*shape, 3, generator=generator, dtype=torch.float64), dim=-1)
    turn = from_rotation_vector(axis * math.radians(degrees))
    aside = torch.nn.functional.normalize(torch.randn(*shape, 2, generator=generator, dtype=torch.float64), dim=-1)
    return Pose(turn @ scene.pose.rotation[:, None], scene.pose.shift[:, None] + shift * aside)


def with_defocus(optics: Optics, change: float) -> Optics:
    return dataclasses.replace(optics, defocus_u=optics.defocus_u + change, defocus_v=optics.defocus_v + change)


def angle(scene: Scene, found: Refined) -> torch.Tensor:
    truth = scene.pose.rotation[:, None].expand_as(found.pose.rotation)
    return torch.rad2deg(geodesic_angle(found.pose.rotation, truth))


def off(scene: Scene, found: Refined) -> torch.Tensor:
    return (found.pose.shift - scene.pose.shift[:, None]).norm(dim=-1)


@GRIDS
def test_without_noise_pose_defocus_and_scale_come_back(grid: Grid):
    scenery = scene(grid, 0.0)
    found = scenery.refine(disturbed(scenery, 3.0, 3.0), with_defocus(scenery.optics, 200.0), FREE, iterations=30)
    # what is left is the interpolation of the table
    assert float(angle(scenery, found).max()) < 0.1
    assert float(off(scenery, found).max()) < 0.03
    assert float((found.defocus + 200).abs().max()) < 15
    assert float((found.scale[:, 0] / scenery.scale - 1).abs().max()) < 0.02


@GRIDS
def test_with_noise_errors_are_those_that_the_covariance_states(grid: Grid):
    scenery = scene(grid, 2.0, 200)
    found = scenery.refine(disturbed(scenery, 3.0, 3.0), with_defocus(scenery.optics, 200.0), FREE, iterations=30)
    vector = torch.rad2deg(to_rotation_vector(found.pose.rotation[:, 0] @ scenery.pose.rotation.mT))
    error = torch.cat((vector, found.pose.shift[:, 0] - scenery.pose.shift), dim=-1)
    assert float(angle(scenery, found).median()) < 1.5
    squared = (error * torch.linalg.solve(found.covariance[:, 0], error)).sum(-1)
    # a chi-squared number of five degrees of freedom has the median 4.35 and exceeds 11.07 once in twenty
    assert float(squared.median()) == pytest.approx(4.35, rel=0.25)
    assert float((squared > 11.07).double().mean()) < 0.15


def test_each_candidate_goes_to_the_best_place_near_it_and_the_best_is_the_truth():
    scenery = scene(Grid(48, 3.0), 1.0)
    known = disturbed(scenery, 3.0, 2.0, candidates=3)
    # the last candidate is far away
    far = torch.tensor([0.0, 0.0, math.radians(70)], dtype=torch.float64)
    rotation = known.rotation.clone()
    rotation[:, 2] = from_rotation_vector(far) @ rotation[:, 2]
    found = scenery.refine(Pose(rotation, known.shift), scenery.optics, PriorWidths(5.0, 4.0), iterations=20)
    assert found.pose.rotation.shape == (24, 3, 3, 3) and found.covariance.shape == (24, 3, 5, 5)
    torch.testing.assert_close(found.log_likelihood[:, 0], found.log_likelihood[:, 1], rtol=1e-2, atol=0.5)
    assert bool((found.log_likelihood[:, 0] > found.log_likelihood[:, 2]).all())
    assert float(angle(scenery, found)[:, :2].median()) < 1.0


def test_widths_of_zero_keep_what_is_known():
    scenery = scene(Grid(48, 3.0), 1.0)
    known, optics = disturbed(scenery, 2.0, 2.0), with_defocus(scenery.optics, 150.0)
    found = scenery.refine(known, optics, PriorWidths(rotation=0, shift=5.0))
    torch.testing.assert_close(found.pose.rotation, known.rotation)
    assert not bool(found.defocus.any()) and bool((found.scale == 1).all())
    assert not bool(found.covariance[..., :3, :].any())
    found = scenery.refine(known, optics, PriorWidths(rotation=5.0, shift=0, defocus=300.0))
    torch.testing.assert_close(found.pose.shift, known.shift)
    assert bool(found.defocus.all())


def test_a_narrow_prior_holds_the_pose_and_a_wide_one_does_not():
    scenery = scene(Grid(48, 3.0), 3.0)
    known = disturbed(scenery, 3.0, 0.0)
    narrow = scenery.refine(known, scenery.optics, PriorWidths(0.05, 0.05))
    wide = scenery.refine(known, scenery.optics, PriorWidths(20.0, 20.0))
    assert float(angle(scenery, narrow).median()) == pytest.approx(3.0, abs=0.5)
    assert float(angle(scenery, wide).median()) < 2.0
    assert bool((wide.log_likelihood >= narrow.log_likelihood - 1e-6).all())


def test_what_is_far_is_found_at_a_low_band_first():
    scenery = scene(Grid(48, 3.0), 0.0)
    known, prior = disturbed(scenery, 12.0, 6.0), PriorWidths(20.0, 10.0, scale=0.5)
    coarse = scenery.refine(known, scenery.optics, prior, band=7, iterations=30)
    fine = scenery.refine(known, scenery.optics, prior, start=coarse, iterations=30)
    assert float(angle(scenery, fine).median()) < 0.2
    assert float((angle(scenery, fine) < 0.5).double().mean()) > 0.9


def test_images_without_a_ctf_are_refined_as_well():
    scenery = scene(Grid(48, 3.0), 0.0)
    density = scenery.table
    plane = scenery.grid.half_plane()
    layout, one = table_layout(scenery.grid.last_shell), torch.ones(24, plane.count)
    slices = gather_table(density, layout, scenery.pose.rotation.float(), plane, one)[..., 0]
    phase = torch.view_as_complex(slices.contiguous()) * scenery.pose.shift_phase(scenery.grid, plane)
    plain = dataclasses.replace(scenery, values=torch.view_as_real(phase).float(), gain=torch.ones(1, plane.count))
    found = plain.refine(disturbed(plain, 3.0, 3.0), None, FREE, iterations=30)
    assert float(angle(plain, found).max()) < 0.05
    assert not bool(found.defocus.any())


def test_poses_drawn_from_a_posterior_scatter_as_it_states() -> None:
    generator = torch.Generator().manual_seed(4)
    half = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    covariance = half @ half.T
    pose = Pose.random(1, 3.0, generator, torch.float64)
    many = Pose(pose.rotation.expand(20_000, 3, 3)[:, None], pose.shift.expand(20_000, 2)[:, None])
    found = dataclasses.replace(Refined.unrefined(many), covariance=covariance.expand(20_000, 1, 5, 5))
    drawn = found.drawn(torch.randn(20_000, 1, 5, generator=generator, dtype=torch.float64))
    turned = to_rotation_vector(drawn.rotation[:, 0] @ pose.rotation.mT) * (180 / math.pi)
    off = torch.cat((turned, drawn.shift[:, 0] - pose.shift), dim=1)
    torch.testing.assert_close(off.T.cov(), covariance, rtol=0, atol=0.05 * float(covariance.diagonal().max()))

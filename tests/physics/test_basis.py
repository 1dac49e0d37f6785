"""Weighted sums of volumes as a density and as an ensemble."""

import pytest
import torch

from frazil.data.ensemble import load_ensemble, save_ensemble
from frazil.numerics.masks import soft_sphere
from frazil.physics.basis import Basis, BasisEnsemble, Landmarks
from frazil.physics.density import Voxels
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

BOXES = pytest.mark.parametrize("box", [16, 17])


def volumes(box: int, count: int = 4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, box, box, box, generator=generator, dtype=dtype) * soft_sphere(box, 0.3 * box, 2).to(
        dtype
    )


@BOXES
def test_each_pose_sees_the_projection_of_its_own_sum(box):
    grid, some = Grid(box, 3.0), volumes(box)
    pose = Pose.random(3, 6.0, torch.Generator().manual_seed(1))
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    together = Basis(some, weights, grid).project(pose, grid)
    for row in range(3):
        alone = Voxels(torch.tensordot(weights[row], some, 1), grid).project(pose[row : row + 1], grid)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@BOXES
def test_projection_and_backprojection_of_a_basis_are_adjoint(box, dtype, error):
    grid, some = Grid(box, 3.0), volumes(box, dtype=dtype)
    pose = Pose.random(5, 6.0, torch.Generator().manual_seed(1), dtype)
    weights = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=dtype)
    basis = Basis(some, weights, grid)
    seen = basis.project(pose, grid)
    other = torch.randn(seen.shape, dtype=seen.dtype, generator=torch.Generator().manual_seed(4))
    left, right = (seen.conj() * other).real.sum(), (some * basis.backproject(other, pose, grid)).sum()
    assert abs(left - right) <= error * float(seen.norm() * other.norm())


def test_a_basis_refuses_another_grid_and_several_rows_of_weights_have_no_map():
    basis = Basis(volumes(16), torch.ones(2, 4), Grid(16, 3.0))
    with pytest.raises(ValueError, match="that grid only"):
        basis.project(Pose.identity(2), Grid(16, 2.0))
    with pytest.raises(ValueError, match="no single map"):
        basis.voxels(Grid(16, 3.0))


def test_a_linear_ensemble_decodes_the_weighted_sum_and_finds_its_latent_again():
    grid, some = Grid(16, 3.0), volumes(16)
    ensemble = BasisEnsemble(some, grid)
    latent = torch.tensor([0.3, -1.2, 2.0])
    decoded = ensemble.density(latent).voxels(grid)
    torch.testing.assert_close(decoded, some[0] + torch.tensordot(latent, some[1:], 1))
    torch.testing.assert_close(ensemble.project_volume(decoded), latent, atol=1e-3, rtol=1e-3)


def curved() -> BasisEnsemble:
    position = torch.linspace(-1, 1, 21)[:, None]
    coefficients = torch.cat((position, position**2, torch.sin(3 * position)), 1)
    return BasisEnsemble(volumes(16), Grid(16, 3.0), Landmarks(position, coefficients, torch.tensor([0.05])))


def test_coefficients_between_landmarks_follow_the_function():
    found = curved().coefficients(torch.tensor([[0.33]]))
    expected = torch.tensor([[0.33, 0.33**2, torch.sin(torch.tensor(0.99))]])
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_the_latent_of_a_decoded_volume_is_found_again_on_a_curved_path():
    ensemble = curved()
    decoded = ensemble.density(torch.tensor([0.47])).voxels(ensemble.grid)
    assert float(ensemble.project_volume(decoded)) == pytest.approx(0.47, abs=0.01)


@pytest.mark.parametrize("ensemble", [BasisEnsemble(volumes(16), Grid(16, 3.0)), curved()], ids=["linear", "curved"])
def test_an_ensemble_on_disk_decodes_the_same(ensemble, tmp_path):
    save_ensemble(tmp_path, ensemble)
    again = load_ensemble(tmp_path)
    latent = torch.full((ensemble.latent_dim,), 0.4)
    assert torch.equal(again.density(latent).voxels(again.grid), ensemble.density(latent).voxels(ensemble.grid))
    assert again.latent_dim == ensemble.latent_dim


@pytest.mark.parametrize("ensemble", [BasisEnsemble(volumes(16), Grid(16, 3.0)), curved()], ids=["linear", "curved"])
def test_other_units_of_the_latent_decode_the_same(ensemble):
    unit = torch.linspace(2, 5, ensemble.latent_dim)
    latent = torch.full((ensemble.latent_dim,), 0.4)
    before = ensemble.density(latent).voxels(ensemble.grid)
    torch.testing.assert_close(ensemble.in_units(unit).density(latent * unit).voxels(ensemble.grid), before)


def test_a_step_that_leads_nowhere_ends_the_search_for_the_latent_of_a_map() -> None:
    """Between landmarks that are far apart the coefficients hardly change, and a step is longer than numbers go."""
    volumes = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    far = Landmarks(torch.tensor([[0.0], [1000.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([104.0]))
    ensemble = BasisEnsemble(volumes, Grid(8, 1.0), far)
    assert ensemble.project_volume(volumes[0] + 0.3 * volumes[1]).tolist() == [0.0]

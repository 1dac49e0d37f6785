"""The neural field: its frequencies, symmetry, projection and voxels."""

import math

import pytest
import torch
from torch import Tensor

from frazil.numerics.fourier import images_to_coefficients
from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.field import ENCODINGS, Domain, FieldEnsemble, FieldNetwork, encoding_frequencies, half_space_sign
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

DOMAINS: tuple[Domain, ...] = ("fourier", "hartley")


def small_network(box_size: int = 10, domain: Domain = "fourier", **options: object) -> FieldNetwork:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    grid = Grid(box_size, 3.0)
    return FieldNetwork(grid, 2, width=16, layers=2, domain=domain, generator=generator, **options).double()


def some_poses(count: int, seed: int = 0) -> Pose:
    return Pose.random(count, 6.0, torch.Generator().manual_seed(seed), torch.float64)


LATENT = torch.tensor([0.3, -0.7], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- positional encoding


@pytest.mark.parametrize(
    ("encoding", "first", "last"),
    [
        ("geom_ft", 64 * math.pi, 2 * math.pi),
        ("geom_full", 64 * math.pi, 1.0),
        ("geom_lowf", 32.0, 1.0),
        ("geom_nohighf", 32.0, 2 * math.pi),
    ],
)
def test_geometric_encodings_run_between_their_wavelengths_on_each_axis(encoding, first: float, last: float) -> None:
    waves = encoding_frequencies(encoding, 64).reshape(3, 32, 3)
    for axis in range(3):
        lengths = waves[axis, :, axis]
        assert lengths[0] == pytest.approx(first)
        assert lengths[-1] == pytest.approx(last)
        assert torch.allclose(lengths[1:] / lengths[:-1], (lengths[-1] / lengths[0]) ** (1 / 31))
        assert waves[axis].norm(dim=-1).allclose(lengths)


def test_linear_encoding_counts_up_to_half_the_box() -> None:
    waves = encoding_frequencies("linear_lowf", 65)
    assert torch.equal(waves[32:64, 1], torch.arange(1.0, 33.0))


def test_gaussian_encoding_spreads_by_sigma_times_half_the_box() -> None:
    waves = encoding_frequencies("gaussian", 64, 4000, 0.5, torch.Generator().manual_seed(0))
    assert waves.shape == (12000, 3)
    assert waves.std().item() == pytest.approx(0.5 * 32, rel=0.02)
    assert encoding_frequencies("gaussian", 64).shape == (96, 3)


def test_encoding_is_sine_and_cosine_of_the_dot_product() -> None:
    network = small_network()
    k = torch.tensor([[0.1, -0.2, 0.05]], dtype=torch.float64)
    angle = (network.frequencies * k).sum(-1)
    assert torch.allclose(network.encode(k, torch.float64)[0], torch.cat((angle.sin(), angle.cos())))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_a_density(encoding) -> None:
    network = small_network(encoding=encoding)
    assert network.density(LATENT).voxels(network.grid).isfinite().all()


def test_an_unknown_encoding_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="'fourrier' is no positional encoding: choose one of gaussian, geom_ft"):
        encoding_frequencies("fourrier", 16)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- symmetry


def test_half_space_signs_of_opposite_frequencies_are_opposite() -> None:
    index = torch.tensor([-1.0, 0.0, 1.0])
    points = torch.cartesian_prod(index, index, index)
    signs = half_space_sign(points) + half_space_sign(-points)
    assert signs[points.abs().sum(-1) > 0].abs().max() == 0


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_transform_is_hermitian(domain: Domain) -> None:
    network = small_network(domain=domain)
    k = torch.rand(1, 200, 3, dtype=torch.float64) - 0.5
    k[0, :20, 2] = 0
    k[0, :10, 1] = 0
    here, there = network(LATENT[None], k), network(LATENT[None], -k)
    assert torch.allclose(here, there * torch.tensor([1.0, -1.0]), atol=1e-14)


# ----------------------------------------------------------------------------------------------- projection and voxels


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("box_size", [10, 11])
def test_projection_at_identity_is_the_sum_of_the_voxels_along_the_beam(box_size: int, domain: Domain) -> None:
    network = small_network(box_size, domain)
    grid = network.grid
    density = network.density(LATENT)
    projected = density.project(Pose.identity(1, torch.float64), grid)[0]
    summed = images_to_coefficients(density.voxels(grid).sum(0), grid.half_plane())
    assert (projected - summed).abs().max() < 1e-12 * summed.abs().max()


def test_a_quarter_turn_of_the_pose_is_a_quarter_turn_of_the_voxels() -> None:
    network = small_network(11)
    density = network.density(LATENT)
    turn = from_rotation_vector(torch.tensor([[0.0, torch.pi / 2, 0.0]], dtype=torch.float64))
    view = density.project(Pose(turn, torch.zeros(1, 2, dtype=torch.float64)), network.grid)[0]
    # the turn takes z of the object to x of the view and x to -z: the beam runs along the object's x
    layout = network.grid.half_plane()
    seen = images_to_coefficients(density.voxels(network.grid).sum(2).mT, layout)
    # rounding may put frequencies on the border of the folded half space (x = 0 of the view) on either side
    clear = layout.x > 0
    assert (view - seen)[clear].abs().max() < 1e-9 * seen.abs().max()


def test_the_shift_moves_the_image_by_a_phase() -> None:
    network = small_network()
    grid, pose = network.grid, some_poses(3)
    still = Pose(pose.rotation, torch.zeros_like(pose.shift))
    density = network.density(LATENT)
    layout = grid.half_plane()
    k = torch.stack((layout.x, layout.y), -1).double() / grid.extent
    phase = torch.exp(-2j * torch.pi * (pose.shift @ k.mT))
    assert torch.allclose(density.project(pose, grid), density.project(still, grid) * phase)


def test_a_finer_grid_of_the_same_extent_sees_the_same_density_and_nothing_beyond_the_trained_band() -> None:
    network = small_network(10)
    fine = Grid(20, 1.5)
    density, pose = network.density(LATENT), some_poses(2)
    coarse_view, fine_view = density.project(pose, network.grid), density.project(pose, fine)
    count = coarse_view.shape[1]
    assert torch.allclose(fine_view[:, :count], coarse_view * 8, atol=1e-12)
    assert fine_view[:, count:].abs().max() == 0
    assert density.voxels(fine)[::2, ::2, ::2].mean().item() == pytest.approx(
        density.voxels(network.grid).mean().item(), rel=1e-9
    )


def test_each_pose_may_see_a_conformation_of_its_own() -> None:
    network = small_network()
    latents, pose = torch.randn(3, 2, dtype=torch.float64), some_poses(3)
    together = network.density(latents).project(pose, network.grid)
    for row in range(3):
        alone = network.density(latents[row]).project(pose[row : row + 1], network.grid)[0]
        assert torch.allclose(together[row], alone)


def test_voxels_want_one_conformation() -> None:
    network = small_network()
    with pytest.raises(ValueError, match="one conformation at a time"):
        network.density(LATENT.expand(2, 2)).voxels(network.grid)


# -------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("domain", DOMAINS)
def test_backprojection_is_the_adjoint_of_projection(dtype: torch.dtype, tolerance: float, domain: Domain) -> None:
    network = small_network(domain=domain).to(dtype)
    density, pose = network.density(LATENT.to(dtype)), some_poses(4).to(dtype)
    v = torch.randn_like(density.linear_parameters())
    y = density.with_linear_parameters(v).project(pose, network.grid)
    u = torch.randn_like(y)
    left = (y.conj() * u).real.sum()
    right = (v * density.backproject(u, pose, network.grid)).sum()
    assert abs((left - right).item()) <= tolerance * (y.norm() * u.norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_tangent_in_all_weights_and_its_transpose_are_adjoint(dtype: torch.dtype, tolerance: float) -> None:
    network = small_network().to(dtype)
    pose, latent = some_poses(3).to(dtype), LATENT.to(dtype)
    names = [name for name, _ in network.named_parameters()]
    weights = tuple(p.detach() for p in network.parameters())

    def projected(*values: Tensor) -> Tensor:
        table = dict(zip(names, values, strict=True)) | dict(network.named_buffers())
        points = pose.rotation[:, :2].mT.mT  # k = (1, 0) and (0, 1), turned into the object
        return torch.func.functional_call(network, table, (latent.expand(3, -1), points * 0.2))

    direction = tuple(torch.randn_like(w) for w in weights)
    value, tangent = torch.func.jvp(projected, weights, direction)
    u = torch.randn_like(value)
    transposed = torch.func.vjp(projected, *weights)[1](u)
    left = (tangent * u).sum()
    right = sum((d * t).sum() for d, t in zip(direction, transposed, strict=True))
    assert abs(float(left - right)) <= tolerance * float(tangent.norm() * u.norm())


def test_gradients_of_rotation_shift_and_latent_are_those_of_finite_differences() -> None:
    network = small_network(6)
    pose = some_poses(2)

    def projected(vector: Tensor, shift: Tensor, latent: Tensor) -> Tensor:
        moved = Pose(from_rotation_vector(vector) @ pose.rotation, shift)
        return torch.view_as_real(network.density(latent).project(moved, network.grid))

    vector = torch.full((2, 3), 0.01, dtype=torch.float64, requires_grad=True)
    shift = pose.shift.clone().requires_grad_()
    latent = LATENT.expand(2, 2).clone().requires_grad_()
    assert torch.autograd.gradcheck(projected, (vector, shift, latent), fast_mode=True)


# ------------------------------------------------------------------------------------------------------------ ensemble


def test_an_ensemble_restored_from_settings_and_tensors_gives_the_same_density() -> None:
    network = small_network().float()
    network.amplitude.fill_(7.0)
    ensemble = FieldEnsemble(network)
    again = FieldEnsemble.from_tensors(*ensemble.to_tensors())
    latent = LATENT.float()
    assert again.latent_dim == 2
    assert again.grid == network.grid
    assert torch.equal(ensemble.density(latent).voxels(network.grid), again.density(latent).voxels(network.grid))

"""Generated molecules move as stated, fit their diameter and have no symmetry."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.data.ensemble import load_ensemble, save_ensemble
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.jointed import Joint, JointedGaussians
from frazil.physics.pose import Pose
from frazil.simulate.molecules import generate, generate_mixture
from frazil.simulate.plans import Lobe, likeness_when_turned

GRID = Grid(32, 8.0)
SETS = ("linear-1d", "linear-2d", "circular-1d", "discrete-10")


def molecule(name: str):
    return generate(name, GRID, 166.0, 3.6)


@pytest.mark.parametrize("name", SETS)
def test_no_conformation_reaches_beyond_the_diameter(name):
    body = molecule(name).body
    latent = torch.rand(50, body.latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    farthest = float(body.centres(latent).norm(dim=-1).max())
    assert 0.45 * 166 < farthest < 0.505 * 166


def test_a_joint_turns_its_domain_and_nothing_else_about_its_axis():
    joint = Joint(1, (1.0, 2.0, 3.0), (0.0, 0.6, 0.8), -30, 50)
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    domain = torch.arange(10) % 2
    body = JointedGaussians(Gaussians(points, torch.ones(10), torch.ones(10)), domain, (joint,), GRID)
    moved = body.centres(torch.tensor([[0.25]]))[0]
    turn = Rotation.from_rotvec(np.deg2rad(-30 + 0.25 * 80) * np.array(joint.axis))
    expected = turn.apply(points.numpy() - joint.pivot) + joint.pivot
    np.testing.assert_allclose(moved[domain == 1].numpy(), expected[domain == 1], atol=1e-6)
    assert torch.equal(moved[domain == 0], points[domain == 0])


def test_the_circular_set_comes_back_to_where_it_began():
    body = molecule("circular-1d").body
    start, half, end = body.centres(torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64))
    assert torch.allclose(start, end, atol=1e-9)
    assert float((start - half).norm(dim=-1).max()) > 60


@pytest.mark.parametrize("name", SETS)
def test_neither_a_turn_nor_a_mirror_leaves_the_molecule_as_it_was(name):
    found = molecule(name)
    density = found.state(5) if found.states else found.body.density(torch.full((found.body.latent_dim,), 0.4))
    volume = density.voxels(GRID)
    volume = volume - volume.mean()

    def like(other: torch.Tensor) -> float:
        return float((volume * other).sum() / volume.norm() / other.norm())

    for axes in ((0, 1), (0, 2), (1, 2)):
        # flips about the centre voxel of an even box
        flipped = torch.roll(volume.flip(axes), shifts=(1, 1), dims=axes)
        assert like(flipped) < 0.8
    mirrored = torch.roll(volume.flip(0), 1, 0)
    assert like(mirrored) < 0.9


def test_the_ten_states_differ_from_each_other():
    found = molecule("discrete-10")
    volumes = torch.stack([found.state(index).voxels(GRID).flatten() for index in range(10)])
    volumes = volumes - volumes.mean(1, keepdim=True)
    likeness = torch.corrcoef(volumes).fill_diagonal_(0)
    assert float(likeness.max()) < 0.985


def test_listed_latents_are_the_middles_of_equal_bins_and_everyone_goes_to_the_nearest():
    found = molecule("linear-1d")
    listed = found.even_latents(4)
    assert torch.allclose(listed[:, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]).double())
    state = found.nearest_state(torch.tensor([[0.0], [0.24], [0.26], [0.99]]).double(), listed)
    assert state.tolist() == [0, 0, 1, 3]


def test_the_ends_of_a_circular_coordinate_are_neighbours():
    found = molecule("circular-1d")
    listed = found.even_latents(4)
    assert found.nearest_state(torch.tensor([[0.95], [0.3]]).double(), listed).tolist() == [0, 1]


def test_listed_latents_of_two_hinges_cover_the_square_evenly():
    found = molecule("linear-2d")
    listed = found.even_latents(10)
    everywhere = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = torch.bincount(found.nearest_state(everywhere, listed), minlength=10) / 20_000
    assert float(share.min()) > 0.05 and float(share.max()) < 0.2


def test_an_ensemble_of_joints_is_the_same_after_saving(tmp_path):
    body = molecule("linear-2d").body
    save_ensemble(tmp_path, body)
    found = load_ensemble(tmp_path)
    latent = torch.tensor([0.2, 0.9], dtype=torch.float64)
    assert found.latent_dim == 2
    assert found.grid == GRID
    assert torch.equal(found.density(latent).voxels(GRID), body.density(latent).voxels(GRID))


def test_a_batch_of_conformers_is_seen_as_one_by_one():
    found = molecule("linear-1d")
    latent = torch.tensor([[0.1], [0.9]], dtype=torch.float64)
    pose = Pose.random(2, 5.0, torch.Generator().manual_seed(2), torch.float64)
    together = found.body.conformers(latent).project(pose, GRID)
    for row in range(2):
        alone = found.body.density(latent[row]).project(pose[row : row + 1], GRID)
        assert torch.allclose(together[row], alone[0])


def test_the_molecules_of_a_mixture_have_no_two_fold_axis_by_chance_and_other_shapes():
    """A two-fold axis would be a principal axis; radii of gyration along these tell shapes apart."""
    grid = Grid(48, 8.0)
    radii = []
    for found in generate_mixture(8, grid, None, 5.4):
        centres = found.centres - found.centres.mean(0)
        spread, axes = torch.linalg.eigh(centres.T @ centres / len(centres))
        radii.append(spread.sqrt())
        volume = Gaussians(centres @ axes, found.amplitudes, found.sigmas).voxels(grid)
        volume = volume - volume.mean()
        for pair in ((0, 1), (0, 2), (1, 2)):
            turned = torch.roll(volume.flip(pair), shifts=(1, 1), dims=pair)
            assert float((volume * turned).sum() / volume.square().sum()) < 0.91
    apart = torch.cdist(torch.stack(radii), torch.stack(radii)) + 100 * torch.eye(8)
    assert float(apart.min()) > 3.0  # Å


def test_a_symmetry_by_chance_is_noticed():
    ring = [(30.0 * np.cos(angle), 30.0 * np.sin(angle), 0.0) for angle in np.deg2rad([0, 120, 240])]
    three_fold = tuple(Lobe(0, place, (15.0, 15.0, 15.0)) for place in (*ring, (0.0, 0.0, 40.0)))
    assert likeness_when_turned(three_fold) == pytest.approx(1)
    rod = tuple(Lobe(0, (x, 0.5 * x % 3, 0.0), (15.0, 14.0, 16.0)) for x in (-40.0, 2.0, 55.0))
    assert likeness_when_turned(rod) > 0.95
    odd = ((0.0, 0.0, 0.0), (40.0, 0.0, 0.0), (40.0, 40.0, 0.0), (0.0, -10.0, 45.0))
    assert likeness_when_turned(tuple(Lobe(0, place, (15.0, 15.0, 15.0)) for place in odd)) < 0.8

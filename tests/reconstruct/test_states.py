"""Discrete states: their maps are averages of their own images, and they divide when images that were kept back say so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frazil.data.mrc import write_stack
from frazil.data.particle_star import write_new_particles_star
from frazil.data.stack import read_particles
from frazil.numerics.fourier import coefficients_to_images
from frazil.numerics.masks import soft_sphere
from frazil.physics.density import Voxels
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct.basis_state import BasisState
from frazil.reconstruct.growth import clustered, completed, divided, grown, joined, one_state, settled, settled_apart
from frazil.reconstruct.linear import Halves
from frazil.reconstruct.maximisation import Stage
from frazil.reconstruct.pieces import divided_by_a_piece
from frazil.reconstruct.states import Rows, Sorter, States, as_basis, functions_of_states
from frazil.reconstruct.whitened import WhitenedImages

COUNT, NOISE = 320, 0.6


def molecules(box: int) -> Tensor:
    """Two that differ in one lobe of six."""
    generator = torch.Generator().manual_seed(5)
    places = (torch.rand(6, 3, generator=generator) - 0.5) * 0.5 * box
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    lobes = torch.stack([torch.exp(-(points - place).square().sum(-1) / 8) for place in places])
    return torch.stack((lobes.sum(0), lobes[1:].sum(0)))


def sorter(
    folder: Path, box: int, *, alike: bool = False, contrast: float = 0.0, every: int = 2
) -> tuple[Sorter, Tensor, Tensor]:
    """Images of both molecules, the second in one of ``every`` in each half-set, with known poses and optics; the truth in
    working order, and the contrast."""
    generator = torch.Generator().manual_seed(box)
    grid, star = Grid(box, 4.0), folder / "two.star"
    state = (torch.arange(COUNT) // 2 % every == 1).long()
    half_set = torch.arange(COUNT) % 2
    pose = Pose.random(COUNT, 4.0, generator)
    optics = Optics.make(
        voltage=300.0, cs=2.7, amplitude_contrast=0.1, defocus_u=8000 + 9000 * torch.rand(COUNT, generator=generator),
        dtype=torch.float32,
    )  # fmt: skip
    volumes = molecules(box)
    seen = [Microscope(Voxels(volumes[0 if alike else which], grid)).image(pose, optics, grid) for which in (0, 1)]
    clean = coefficients_to_images(torch.where(state[:, None] == 0, seen[0], seen[1]), grid.half_plane())
    size = 1 + contrast * torch.randn(COUNT, generator=generator)
    spread = clean.std() / NOISE**0.5
    images = clean * size[:, None, None] + spread * torch.randn(clean.shape, generator=generator)
    write_stack(folder / "two.mrcs", images / spread, grid.pixel_size)
    write_new_particles_star(star, folder / "two.mrcs", grid, pose=pose, optics=optics, half_set=half_set)
    noise = torch.full((1, box // 2 + 1), float(box**2))
    whitened = WhitenedImages(read_particles(star), min(8, grid.last_shell), noise, sign=1.0)
    stage = Stage.of(whitened, whitened.plane.band, "C1")
    mask = soft_sphere(stage.box, 0.44 * stage.box, 1.5).expand(2, *(stage.box,) * 3)
    found = Sorter(whitened, stage, mask, 0.1 if contrast else 0.0, torch.ones(COUNT, 2))
    return found, state[whitened.order], size[whitened.order]


def members(rows: Rows, labels: Tensor) -> tuple[Tensor, Tensor]:
    hot = torch.nn.functional.one_hot(labels, 2).float()
    return hot[rows[0]], hot[rows[1]]


def agreement(labels: Tensor, truth: Tensor) -> float:
    """Share of images sorted right, whichever name a state has."""
    right = float((labels == truth).float().mean())
    return max(right, 1 - right)


@pytest.mark.parametrize("box", [24, 25])
def test_the_map_of_a_state_is_that_of_its_images(box: int, tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, box)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))
    states, _, _, _ = found.step(states, rows, "both")
    true = found.stage.tables((molecules(box)[:1], molecules(box)[1:]))
    table, _ = found.tables(states, "both")
    gap, wanted = (table[..., 0] - table[..., 1]).flatten(), (true[0] - true[1]).flatten()
    assert float(torch.corrcoef(torch.stack((gap, wanted)))[0, 1]) > 0.8
    torch.testing.assert_close(states.share, torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)


def test_two_molecules_divide_from_random_memberships(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    division = divided(found, found.all_rows(), None, 3)
    assert division is not None and division.clear
    assert agreement(division.second.long(), truth) > 0.95


def test_images_of_one_molecule_stay_one_state(tmp_path: Path) -> None:
    found, _, _ = sorter(tmp_path, 24, alike=True)
    growth, _ = grown(found, one_state(found, torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(1))), 4, 1)
    assert growth.states.count == 1 and bool(growth.whole.all())


def test_states_do_not_exceed_the_number_asked_for(tmp_path: Path) -> None:
    found, _, _ = sorter(tmp_path, 24)
    alone = one_state(found, torch.zeros(COUNT, 1))
    assert grown(found, alone, 1, 1)[0] is alone


def test_clusters_are_taken_where_they_explain_unseen_images_better(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    right, wrong = truth[:, None].float(), torch.randn(COUNT, 1, generator=torch.Generator().manual_seed(2))
    assert clustered(found, one_state(found, right), 2, 0)[0].states.count == 2
    alike, _, _ = sorter(tmp_path, 24, alike=True)
    assert clustered(alike, one_state(alike, wrong), 2, 0)[0].states.count == 1


@pytest.mark.parametrize("alike", [False, True])
def test_states_that_images_do_not_tell_apart_become_one(tmp_path: Path, alike: bool) -> None:
    found, truth, _ = sorter(tmp_path, 24, alike=alike)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))
    before = replace(one_state(found, truth[:, None].float()), states=states, whole=torch.zeros(2, dtype=torch.bool))
    assert joined(found, before)[0].states.count == (1 if alike else 2)


def test_the_contrast_of_images_is_measured(tmp_path: Path) -> None:
    found, truth, size = sorter(tmp_path, 24, contrast=0.25)
    rows = found.all_rows()
    growth = one_state(found, torch.zeros(COUNT, 1))
    states = found.averaged(rows, members(rows, truth))
    states, _, found, _ = found.step(states, rows, "both")
    for _ in range(3):
        states, _, found, _ = found.step(states, rows, "both")
    assert abs(found.spread - 0.25) < 0.06
    assert float(torch.corrcoef(torch.stack((found.scale[:, 0], size)))[0, 1]) > 0.8
    assert growth.states.count == 1


def test_contrast_that_does_not_vary_is_found_not_to(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24, contrast=1e-6)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))
    for _ in range(3):
        states, _, found, _ = found.step(states, rows, "both")
    assert found.spread < 0.06


def test_functions_of_states_are_orthonormal_under_the_share() -> None:
    share = torch.tensor([0.5, 0.3, 0.15, 0.05])
    functions = functions_of_states(share)
    assert functions.shape == (4, 3)
    torch.testing.assert_close(share @ functions, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close((functions * share[:, None]).T @ functions, torch.eye(3), atol=1e-5, rtol=0)


def test_states_are_found_again_in_their_basis() -> None:
    maps = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(4))
    states = States(maps, 2 * maps, torch.tensor([0.6, 0.3, 0.1]))
    mixture, halves = as_basis(states, Halves(maps, maps, torch.ones(5, 2), 0.0))
    for state in range(3):
        again = halves.a[0] + torch.tensordot(mixture.mean[state], halves.a[1:], 1)
        torch.testing.assert_close(again, maps[state], atol=1e-4, rtol=1e-4)


def test_settling_goes_on_from_where_states_are(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    rows = found.all_rows()
    alone = one_state(found, truth[:, None].float())
    growth, _ = clustered(found, alone, 2, 0)
    after, _ = settled(found, growth, 1)
    assert after.evidence is not None and after.states.count == 2
    assert sum(len(half) for half in rows) == COUNT


def test_images_are_drawn_to_an_average_they_are_in_but_not_to_one_of_the_other_half(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24, alike=True)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))  # of one molecule: what tells them apart is noise
    own, _ = found.weighed(found.tables(states, "own"), states.share, rows)
    other, _ = found.weighed(found.tables(states, "other"), states.share, rows)
    kept = [float((torch.cat(these).argmax(1) == truth).float().mean()) for these in (own, other)]
    assert kept[0] > 0.6
    assert abs(kept[1] - 0.5) < 0.1


def test_states_differ_only_where_both_halves_say_that_the_density_does(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))
    region, confined = found.confined(states)
    apart = molecules(24)[0] - molecules(24)[1]
    box = region.shape[-1]
    apart = torch.nn.functional.interpolate(apart[None, None], size=(box, box, box))[0, 0]
    inside = apart > 0.5 * apart.max()
    assert float(region[inside].mean()) > 0.5
    assert float(region.mean()) < 0.2
    untouched = region < 1e-3
    torch.testing.assert_close(confined.a[0][untouched], confined.a[1][untouched], atol=1e-2, rtol=0)


def test_a_small_part_is_found_by_the_piece_that_it_lacks(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24, every=8)
    growth, after = completed(found, one_state(found, torch.zeros(COUNT, 1)), 4)
    assert growth.states.count == 2
    members, _ = after.weighed(after.tables(growth.states, "other"), growth.states.share, after.all_rows())
    assert agreement(torch.cat(members).argmax(1), truth) > 0.97
    assert float(growth.states.share.min()) == pytest.approx(float(truth.float().mean()), abs=0.03)


def test_no_piece_divides_images_of_one_molecule(tmp_path: Path) -> None:
    found, _, _ = sorter(tmp_path, 24, alike=True)
    division = divided_by_a_piece(found, found.all_rows())
    assert division is None or not division.clear
    growth, _ = completed(found, one_state(found, torch.zeros(COUNT, 1)), 4)
    assert growth.states.count == 1 and bool(growth.whole.all())


def test_pieces_make_no_more_states_than_are_asked_for(tmp_path: Path) -> None:
    found, _, _ = sorter(tmp_path, 24, every=8)
    assert completed(found, one_state(found, torch.zeros(COUNT, 1)), 1)[0].states.count == 1


def test_states_that_hardly_any_image_is_left_in_are_given_up(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    rows = found.all_rows()
    three = truth.clone()
    three[rows[0][:4]] = three[rows[1][:4]] = 2
    hot = torch.nn.functional.one_hot(three, 3).float()
    states = found.averaged(rows, (hot[rows[0]], hot[rows[1]]))
    before = replace(one_state(found, truth[:, None].float()), states=states, whole=torch.ones(3, dtype=torch.bool))
    growth, after = completed(found, before, 3)
    assert growth.states.count == 2
    members, _ = after.weighed(after.tables(growth.states, "other"), growth.states.share, rows)
    assert agreement(torch.cat(members).argmax(1), truth) > 0.95


def test_an_image_counts_in_its_likeliest_state_alone(tmp_path: Path) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))
    _, belongs, _, _ = found.step(states, rows, "other", alone=True)
    assert set(torch.cat(belongs).flatten().tolist()) == {0.0, 1.0}
    growth, _ = settled_apart(found, replace(one_state(found, truth[:, None].float()), states=states), 2)
    assert growth.evidence is not None and growth.states.count == 2


def test_where_no_state_has_images_enough_the_fullest_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth, _ = sorter(tmp_path, 24)
    rows = found.all_rows()
    states = found.averaged(rows, members(rows, truth))
    before = replace(one_state(found, truth[:, None].float()), states=states, whole=torch.ones(2, dtype=torch.bool))
    monkeypatch.setattr("frazil.reconstruct.growth.FEWEST_IMAGES", COUNT)
    assert completed(found, before, 2)[0].states.count == 1


def test_images_are_sorted_by_other_volumes_than_are_shown_and_a_checkpoint_keeps_both(tmp_path: Path) -> None:
    shown, told = torch.rand(2, 2, 6, 6, 6), torch.rand(2, 2, 6, 6, 6)
    mixture, halves = as_basis(
        States(shown[0], shown[1], torch.tensor([0.5, 0.5])), Halves(shown[0], shown[1], torch.ones(4, 2), 0.0)
    )
    state = BasisState(halves, torch.ones(1, 4), mixture=mixture, sorted_by=(told[0], told[1]))
    state.save(tmp_path / "state.safetensors", 3, "")
    kept, done, _ = BasisState.load(tmp_path / "state.safetensors")
    assert done == 3
    compared = kept.told_by(None)
    # each half is compared with what the other has learnt
    torch.testing.assert_close(compared.a, told[1])
    torch.testing.assert_close(compared.b, told[0])
    torch.testing.assert_close(kept.halves.a, halves.a)

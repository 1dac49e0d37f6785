"""Classes of a mixture are aligned each by itself."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from frazil.data.truth import Truth
from frazil.evaluate.class_poses import class_pose_figures, class_poses
from frazil.evaluate.families import Decoder, evaluate_ensemble
from frazil.evaluate.frame import Frame, Frames
from frazil.evaluate.poses import pose_errors, pose_figures
from frazil.physics.density import Gaussians
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def rotations(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def mixture(swapped: int = 0):
    """(pose, true pose, class, state): three states, classes 7, 8, 9 in frames of their own, class 8 mirrored and moved."""
    state = np.repeat([0, 1, 2], 60)
    true = Pose(rotations(180, 1), torch.zeros(180, 2).double())
    rotation, shift = true.rotation.clone(), true.shift.clone()
    for label in range(3):
        own = torch.from_numpy(state == label)
        frame = rotations(1, 10 + label)[0]
        rotation[own] = MIRROR @ rotation[own] @ MIRROR @ frame if label == 1 else rotation[own] @ frame
        shift[own] -= (true.rotation[own] @ torch.tensor([5.0 * label, 3.0, 0.0]).double())[:, :2]
    component = state + 7
    component[:swapped] = 8
    return Pose(rotation, shift), true, component, state


def test_each_class_has_its_own_frame_hand_and_centre():
    pose, true, component, state = mixture()
    figures = class_pose_figures(class_poses(pose, true, component, state), 2.0)
    assert figures["rotation_error_mean"] < 1e-4
    assert figures["shift_error_rms"] < 1e-6
    assert (figures["classes"], figures["classes_mirrored"]) == (3, 1)
    assert pose_figures(pose_errors(pose, true), 2.0)["rotation_within_10"] < 0.5


def test_particles_in_a_wrong_class_are_wrong_and_do_not_move_its_frame():
    pose, true, component, state = mixture(swapped=18)
    figures = class_pose_figures(class_poses(pose, true, component, state), 2.0)
    assert figures["rotation_within_3"] == pytest.approx(0.9, abs=0.01)
    assert figures["right_class"]["rotation_error_mean"] < 1e-4


def test_a_class_that_stands_for_no_state_has_poses_too():
    pose, true, component, state = mixture()
    component[::4] = 11
    found = class_poses(pose, true, component, state)
    assert found.state_of[11] == -1
    assert class_pose_figures(found, 2.0)["rotation_within_3"] > 0.75


class TwoMaps:
    """An ensemble of two blobs: which, and where in its own frame, the latent says."""

    grid = Grid(24, 4.0)
    frames = (
        Frame(rotations(1, 20)[0], torch.tensor([4.0, 0.0, 2.0]).double()),
        Frame(-rotations(1, 21)[0], torch.tensor([0.0, -6.0, 0.0]).double()),
    )

    def rest(self, which: int) -> Gaussians:
        generator = torch.Generator().manual_seed(which)
        centres = 8 * torch.randn(8, 3, generator=generator, dtype=torch.float64)
        return Gaussians(centres, torch.ones(8).double(), 4 * torch.ones(8).double())

    def density(self, latent: torch.Tensor) -> Gaussians:
        frame, there = self.frames[int(latent[0] > 0.5)], self.rest(int(latent[0] > 0.5))
        return Gaussians((there.centres + frame.offset) @ frame.turn.T, there.amplitudes, there.sigmas)


def test_maps_of_classes_are_turned_each_from_its_own_frame():
    ensemble, state = TwoMaps(), np.repeat([0, 1], 20)
    volumes = torch.stack([ensemble.rest(which).voxels(ensemble.grid).float() for which in (0, 1)])
    truth = Truth(None, state, np.zeros((40, 3, 3)), np.zeros((40, 2)))
    component = 5 - state
    frames = Frames(ensemble.frames[0], {5: ensemble.frames[0], 4: ensemble.frames[1]}, component)
    latent, mask = state[:, None].astype(np.float32), torch.ones_like(volumes[0])
    figures = evaluate_ensemble(Decoder(ensemble, ensemble.grid, frames), latent, truth, volumes, mask, 4)
    perfect = 11 / 24
    assert figures["states"]["fsc_auc"]["mean"] == pytest.approx(perfect, abs=0.01)
    assert figures["images"]["fsc_auc"]["mean"] == pytest.approx(perfect, abs=0.01)
    one_frame = Decoder(ensemble, ensemble.grid, Frames(ensemble.frames[0]))
    assert evaluate_ensemble(one_frame, latent, truth, volumes, mask, 4)["images"]["fsc_auc"]["mean"] < 0.4


def test_a_state_without_a_class_has_no_map():
    ensemble, state = TwoMaps(), np.repeat([0, 1], 20)
    volumes = torch.stack([ensemble.rest(which).voxels(ensemble.grid).float() for which in (0, 1)])
    truth = Truth(None, state, np.zeros((40, 3, 3)), np.zeros((40, 2)))
    frames = Frames(ensemble.frames[0], {5: ensemble.frames[0]}, np.full(40, 5))
    latent, mask = np.zeros((40, 1), np.float32), torch.ones_like(volumes[0])
    areas = evaluate_ensemble(Decoder(ensemble, ensemble.grid, frames), latent, truth, volumes, mask, 0)
    assert sorted(areas["states"]["per_state_fsc_auc"])[0] < 0.05

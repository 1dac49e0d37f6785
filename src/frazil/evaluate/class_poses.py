"""Poses of a mixture: every class is a reconstruction of its own, with its own frame, hand and centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from frazil.evaluate.classes import best_assignment
from frazil.evaluate.frame import Frame
from frazil.evaluate.poses import AlignedPoses, Errors, error_figures, pose_errors
from frazil.physics.pose import Pose


@final
@dataclass(frozen=True)
class ClassPoses:
    """Errors of poses, class by class.

    Attributes:
        state_of: the state that each class stands for, -1 for none. rows: of each class. errors: of those rows, after the
            alignment found from the particles that are of the state. right: (N,) whether a particle is in the right class.
    """

    state_of: dict[int, int]
    rows: dict[int, np.ndarray]
    errors: dict[int, AlignedPoses]
    right: np.ndarray

    def frames(self) -> dict[int, Frame]:
        """The frame of each class."""
        return {label: Frame.of_poses(errors) for label, errors in self.errors.items()}


def class_poses(
    pose: Pose,
    true: Pose,
    component: Int[np.ndarray, " count"],
    state: Int[np.ndarray, " count"],
    symmetry: Tensor | None = None,
) -> ClassPoses:
    """Align the poses of each class with those of the state it stands for.

    A class that stands for no state, or has no particle of it, is aligned from all of its particles.
    """
    state_of = best_assignment(component, state)
    right = np.array([state_of[label] for label in component.tolist()]) == state
    rows = {label: np.flatnonzero(component == label) for label in state_of}
    errors = {}
    for label, own in rows.items():
        where, fit = torch.from_numpy(own), torch.from_numpy(np.flatnonzero(right[own]))
        errors[label] = pose_errors(pose[where], true[where], symmetry, fit if len(fit) else None)
    return ClassPoses(state_of, rows, errors, right)


def class_pose_figures(found: ClassPoses, pixel_size: float) -> dict[str, object]:
    """Figures over all particles, each in the frame of its class; those in the right class alone; hands of the classes.

    A particle in a wrong class keeps the error its pose has there: about that of a random one.
    """
    aligned = found.errors.values()
    order = np.concatenate(list(found.rows.values()))
    remaining = Errors.joined([each.remaining for each in aligned])
    figures: dict[str, object] = {**error_figures(remaining, pixel_size)}
    if found.right.any():
        figures["right_class"] = error_figures(remaining[torch.from_numpy(found.right[order])], pixel_size)
    figures["classes"] = len(found.rows)
    figures["classes_mirrored"] = sum(each.alignment.mirrored for each in aligned)
    return figures

"""Poses against the truth, after the freedom that images leave: one rotation of the object, its hand and its centre."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.numerics.rotations import geodesic_angle

ANCHORS = 30
# more poses do not make the common frame more certain than it needs to be
MOST_POSES = 10_000
_MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Alignment:
    """How estimated poses are turned into the frame of the truth: ``R_true ~ M R_estimated G``.

    Attributes:
        turn: G, 3 x 3; a reflection when mirrored.
        mirrored: whether the estimate has the other hand; M is then diag(1, 1, -1), otherwise the identity.
    """

    turn: Float[Tensor, "3 3"]
    mirrored: bool

    def apply(self, rotation: Float[Tensor, "count 3 3"]) -> Float[Tensor, "count 3 3"]:
        """Estimated rotations in the frame of the truth."""
        return _hand(rotation.double(), self.mirrored) @ self.turn


def align_rotations(
    estimated: Float[Tensor, "count 3 3"],
    true: Float[Tensor, "count 3 3"],
    symmetry: Float[Tensor, "operations 3 3"] | None = None,
    anchors: int = ANCHORS,
) -> Alignment:
    """The rotation and hand that bring estimated poses closest to the true ones.

    Every anchor i proposes ``G = B_i^T A_i``; the proposal with the least median of ``|B G - A|^2`` (Frobenius) wins,
    over both hands: the rule of cryoDRGN. The winner is then replaced by the mean of all proposals that agree with it,
    when that lowers the median further.

    Args:
        symmetry: operations of the object's point group; ``A S`` is as good as ``A``.
    """
    few = torch.linspace(0, len(true) - 1, min(len(true), MOST_POSES)).round().long().unique()
    true, estimated = true[few].double(), estimated[few].double()
    chosen = torch.linspace(0, len(true) - 1, min(anchors, len(true))).round().long().unique()
    best: tuple[float, Alignment] | None = None
    for mirrored in (False, True):
        hand = _hand(estimated, mirrored)
        for index in chosen.tolist():
            candidate = Alignment(hand[index].T @ true[index], mirrored)
            error = float(squared_frobenius(hand @ candidate.turn, true, symmetry).median())
            if best is None or error < best[0]:
                best = (error, candidate)
    if best is None:
        raise ValueError("there are no poses to align")
    return _polished(best, estimated, true, symmetry)


def _polished(best: tuple[float, Alignment], estimated: Tensor, true: Tensor, symmetry: Tensor | None) -> Alignment:
    error, alignment = best
    for _ in range(3):
        aligned = alignment.apply(estimated)
        nearest = nearest_equivalent(aligned, true, symmetry)
        distance = (aligned - nearest).square().sum((-2, -1))
        good = distance <= 2 * distance.median()
        proposals = _hand(estimated[good], alignment.mirrored).mT @ nearest[good]
        left, _, right = torch.linalg.svd(proposals.mean(0))
        sign = torch.det(alignment.turn).round()
        fix = torch.diag(torch.tensor([1.0, 1.0, float(sign * torch.det(left @ right))], dtype=torch.float64))
        candidate = Alignment(left @ fix @ right, alignment.mirrored)
        found = float(squared_frobenius(candidate.apply(estimated), true, symmetry).median())
        if found >= error:
            break
        error, alignment = found, candidate
    return alignment


def _hand(rotation: Tensor, mirrored: bool) -> Tensor:
    return _MIRROR @ rotation if mirrored else rotation


def nearest_equivalent(
    aligned: Float[Tensor, "count 3 3"],
    true: Float[Tensor, "count 3 3"],
    symmetry: Float[Tensor, "operations 3 3"] | None,
) -> Float[Tensor, "count 3 3"]:
    """Of all true rotations that symmetry makes equal, the one nearest to each estimate."""
    if symmetry is None or len(symmetry) == 1:
        return true
    # |A S - B|^2 = 6 - 2 tr(S^T A^T B): one matrix product for all operations
    overlap = (true.mT @ aligned).flatten(1) @ symmetry.double().flatten(1).T
    return true @ symmetry.double()[overlap.argmax(1)]


def squared_frobenius(
    aligned: Float[Tensor, "count 3 3"],
    true: Float[Tensor, "count 3 3"],
    symmetry: Float[Tensor, "operations 3 3"] | None = None,
) -> Float[Tensor, " count"]:
    """``|B - A|^2`` of each pair: ``8 sin^2(angle / 2)``."""
    return (aligned - nearest_equivalent(aligned, true, symmetry)).square().sum((-2, -1))


def out_of_plane_angle(
    aligned: Float[Tensor, "count 3 3"], true: Float[Tensor, "count 3 3"]
) -> Float[Tensor, " count"]:
    """Angle between the viewing directions (third rows), degrees."""
    a, b = aligned[:, 2], true[:, 2]
    return torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)))


def shift_residuals(
    estimated: Float[Tensor, "count 2"], true: Float[Tensor, "count 2"], rotation: Float[Tensor, "count 3 3"]
) -> tuple[Float[Tensor, "count 2"], Float[Tensor, " 3"]]:
    """Shift errors after the object's own centre is fitted: ``t - t_true + (R o)_xy`` with the least-squares o.

    Returns: residuals and o, both in the unit of the shifts.
    """
    projector = rotation[:, :2].double().reshape(-1, 3)
    difference = (estimated - true).double()
    offset = torch.linalg.lstsq(projector, -difference.reshape(-1, 1), driver="gelsd").solution[:, 0]
    return difference + (rotation[:, :2].double() @ offset), offset


def pose_figures(
    rotation: Float[Tensor, "count 3 3"],
    shift: Float[Tensor, "count 2"],
    true_rotation: Float[Tensor, "count 3 3"],
    true_shift: Float[Tensor, "count 2"],
    pixel_size: float,
    symmetry: Float[Tensor, "operations 3 3"] | None = None,
) -> dict[str, float | bool]:
    """Errors of poses after global alignment: angles in degrees, shifts in Å and (``_px``) in pixels."""
    alignment = align_rotations(rotation, true_rotation, symmetry)
    aligned = alignment.apply(rotation)
    true = nearest_equivalent(aligned, true_rotation.double(), symmetry)
    angle = torch.rad2deg(geodesic_angle(aligned, true))
    plane = out_of_plane_angle(aligned, true)
    residual = shift_residuals(shift, true_shift, true)[0].norm(dim=-1)
    identity = torch.eye(3, dtype=torch.float64)
    turned = 180.0 if alignment.mirrored else float(torch.rad2deg(geodesic_angle(alignment.turn, identity)))
    rms = float(residual.square().mean().sqrt())
    return {
        "rotation_error_median": float(angle.median()),
        "rotation_error_mean": float(angle.mean()),
        "out_of_plane_error_median": float(plane.median()),
        "out_of_plane_error_mean": float(plane.mean()),
        "squared_frobenius_median": float((aligned - true).square().sum((-2, -1)).median()),
        "shift_error_median": float(residual.median()),
        "shift_error_rms": rms,
        "shift_error_median_px": float(residual.median()) / pixel_size,
        "shift_error_rms_px": rms / pixel_size,
        "mirrored": alignment.mirrored,
        "frame_turned_by": turned,
    }

"""Poses against the truth, after the freedom that images leave: one rotation of the object, its hand and its centre.

The common frame is found from the poses that are right, however many are wrong: every candidate is judged by how many
poses it brings close to the truth, not by all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.numerics.rotations import geodesic_angle
from frazil.physics.pose import Pose

ANCHORS = 200
# poses that every proposal is tried on, and proposals that are refined
SEARCHED_POSES = 2_000
REFINED = 6
# more poses do not make the common frame more certain than it needs to be
MOST_POSES = 10_000
# degrees: poses this far from the truth still count for a frame
CLOSE = 12.0
# degrees: errors within which poses are counted
LIMITS = (3, 5, 10, 30)
_MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@final
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
    """The rotation and hand that bring as many estimated poses as possible close to the true ones.

    Every anchor i proposes ``G = B_i^T A_i`` for either hand. A proposal's support is the mean of ``exp(-d^2 / 2 c^2)``
    over poses, d the angle left and c `CLOSE`: wrong poses add nothing, wherever they are. The best few are replaced by
    the weighted mean of all proposals that agree with them, in steps of falling width, and the one with most support wins.
    (cryoDRGN takes the proposal with the least median error, which needs half of the poses to be right.)

    Args:
        symmetry: operations of the object's point group; ``A S`` is as good as ``A``.
    """
    if len(true) == 0:
        raise ValueError("there are no poses to align")
    few = _evenly(len(true), SEARCHED_POSES)
    some, others = true[few].double(), estimated[few].double()
    found: list[tuple[float, Alignment]] = []
    for mirrored in (False, True):
        hand = _hand(others, mirrored)
        for index in _evenly(len(few), anchors).tolist():
            candidate = Alignment(hand[index].T @ some[index], mirrored)
            found.append((_support(candidate, others, some, symmetry), candidate))
    found.sort(key=lambda pair: -pair[0])
    few = _evenly(len(true), MOST_POSES)
    some, others = true[few].double(), estimated[few].double()
    refined = [_refined(candidate, others, some, symmetry) for _, candidate in found[:REFINED]]
    return max(refined, key=lambda candidate: _support(candidate, others, some, symmetry))


def _evenly(count: int, wanted: int) -> Int[Tensor, " rows"]:
    return torch.linspace(0, count - 1, min(wanted, count)).round().long().unique()


def _degrees_left(alignment: Alignment, estimated: Tensor, true: Tensor, symmetry: Tensor | None) -> Tensor:
    aligned = alignment.apply(estimated)
    return torch.rad2deg(geodesic_angle(aligned, nearest_equivalent(aligned, true, symmetry)))


def _support(alignment: Alignment, estimated: Tensor, true: Tensor, symmetry: Tensor | None) -> float:
    left = _degrees_left(alignment, estimated, true, symmetry)
    return float(torch.exp(-0.5 * (left / CLOSE).square()).mean())


def _refined(alignment: Alignment, estimated: Tensor, true: Tensor, symmetry: Tensor | None) -> Alignment:
    """The mean of what all poses propose, weighted by how well they agree with it, closer and closer."""
    for width in (2 * CLOSE, CLOSE, None, None, None):
        aligned = alignment.apply(estimated)
        nearest = nearest_equivalent(aligned, true, symmetry)
        left = torch.rad2deg(geodesic_angle(aligned, nearest))
        close = left[left <= 3 * CLOSE]
        if len(close) == 0:
            return alignment
        scale = max(1.5 * float(close.median()), 0.1) if width is None else width
        weight = torch.exp(-0.5 * (left / scale).square())
        proposals = _hand(estimated, alignment.mirrored).mT @ nearest
        mean = torch.einsum("n,nij->ij", weight, proposals)
        if float(mean.abs().max()) == 0:
            return alignment
        left_side, _, right_side = torch.linalg.svd(mean)
        sign = torch.det(alignment.turn).round() * torch.det(left_side @ right_side)
        fix = torch.diag(torch.tensor([1.0, 1.0, float(sign)], dtype=torch.float64))
        alignment = Alignment(left_side @ fix @ right_side, alignment.mirrored)
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
    estimated: Float[Tensor, "count 2"],
    true: Float[Tensor, "count 2"],
    rotation: Float[Tensor, "count 3 3"],
    trusted: Bool[Tensor, " count"] | None = None,
) -> tuple[Float[Tensor, "count 2"], Float[Tensor, " 3"]]:
    """Shift errors after the object's own centre is fitted: ``t - t_true + (R o)_xy`` with the least-squares o.

    The centre is fitted on the trusted poses (all unless given), and again without those far off.

    Returns: residuals and o, both in the unit of the shifts.
    """
    projector = rotation[:, :2].double()
    difference = (estimated - true).double()
    kept = torch.ones(len(true), dtype=torch.bool) if trusted is None else trusted
    offset = torch.zeros(3, dtype=torch.float64)
    residual = difference
    for _ in range(3):
        rows, values = projector[kept].reshape(-1, 3), -difference[kept].reshape(-1, 1)
        offset = torch.linalg.lstsq(rows, values, driver="gelsd").solution[:, 0]
        residual = difference + projector @ offset
        length = residual.norm(dim=-1)
        kept = kept & (length <= 4 * length[kept].median() + 1e-9)
    return residual, offset


@final
@dataclass(frozen=True)
class Errors:
    """What is left between estimated poses and the true ones.

    Attributes:
        angle: of rotations, degrees. out_of_plane: of viewing directions, degrees. squared_frobenius: of rotation matrices.
        shift: (x, y), Å.
    """

    angle: Float[Tensor, " count"]
    out_of_plane: Float[Tensor, " count"]
    squared_frobenius: Float[Tensor, " count"]
    shift: Float[Tensor, "count 2"]

    def __getitem__(self, rows: Tensor) -> Errors:
        return Errors(self.angle[rows], self.out_of_plane[rows], self.squared_frobenius[rows], self.shift[rows])

    @staticmethod
    def joined(parts: Sequence[Errors]) -> Errors:
        """Several sets as one, in their order."""
        names = ("angle", "out_of_plane", "squared_frobenius", "shift")
        return Errors(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@final
@dataclass(frozen=True)
class AlignedPoses:
    """Estimated poses in the frame of the true ones.

    Attributes:
        alignment: of the rotations. offset: of the centre, in the frame of the truth, Å. remaining: errors.
    """

    alignment: Alignment
    offset: Float[Tensor, " 3"]
    remaining: Errors


def pose_errors(
    pose: Pose, true: Pose, symmetry: Float[Tensor, "operations 3 3"] | None = None, fit: Tensor | None = None
) -> AlignedPoses:
    """Errors of poses once frames, hands and centres are brought together.

    Args:
        symmetry: operations of the object's point group. fit: rows the alignment is found from; all unless given.
    """
    rows = torch.arange(len(true)) if fit is None else fit
    alignment = align_rotations(pose.rotation[rows], true.rotation[rows], symmetry)
    aligned = alignment.apply(pose.rotation)
    nearest = nearest_equivalent(aligned, true.rotation.double(), symmetry)
    angle = torch.rad2deg(geodesic_angle(aligned, nearest))
    chosen = torch.zeros(len(true), dtype=torch.bool)
    chosen[rows] = True
    close = chosen & (angle <= 3 * CLOSE)
    trusted = close & (angle <= 3 * angle[close].median()) if bool(close.any()) else chosen
    shift, offset = shift_residuals(pose.shift, true.shift, nearest, trusted)
    squared = (aligned - nearest).square().sum((-2, -1))
    return AlignedPoses(alignment, offset, Errors(angle, out_of_plane_angle(aligned, nearest), squared, shift))


def error_figures(errors: Errors, pixel_size: float) -> dict[str, float]:
    """Errors of poses in numbers: angles in degrees, shifts in Å and (``_px``) in pixels; ``within`` are fractions."""
    length = errors.shift.norm(dim=-1)
    rms = float(length.square().mean().sqrt())
    return {
        "rotation_error_median": float(errors.angle.median()),
        "rotation_error_mean": float(errors.angle.mean()),
        **{f"rotation_within_{limit}": float((errors.angle <= limit).double().mean()) for limit in LIMITS},
        "out_of_plane_error_median": float(errors.out_of_plane.median()),
        "out_of_plane_error_mean": float(errors.out_of_plane.mean()),
        "squared_frobenius_median": float(errors.squared_frobenius.median()),
        "shift_error_median": float(length.median()),
        "shift_error_mean": float(length.mean()),
        "shift_error_rms": rms,
        "shift_error_median_px": float(length.median()) / pixel_size,
        "shift_error_mean_px": float(length.mean()) / pixel_size,
        "shift_error_rms_px": rms / pixel_size,
    }


def pose_figures(found: AlignedPoses, pixel_size: float) -> dict[str, float | bool]:
    """Errors of poses after alignment, the hand, and by how many degrees the frames differ (180 when mirrored)."""
    identity = torch.eye(3, dtype=torch.float64)
    mirrored = found.alignment.mirrored
    turned = 180.0 if mirrored else float(torch.rad2deg(geodesic_angle(found.alignment.turn, identity)))
    return error_figures(found.remaining, pixel_size) | {"mirrored": mirrored, "frame_turned_by": turned}

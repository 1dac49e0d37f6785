"""A reconstruct job against the truth of its particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frazil.data.ensemble import load_ensemble
from frazil.data.mrc import read_volume
from frazil.data.npy import read_npy
from frazil.data.stack import read_particles
from frazil.data.truth import Truth
from frazil.errors import InputError
from frazil.evaluate.calibration import ProjectingEnsemble, coverage_of_latent, coverage_of_truth
from frazil.evaluate.classes import agreement_figures
from frazil.evaluate.families import Decoder, TrueMaps, evaluate_ensemble, evaluate_oracle
from frazil.evaluate.frame import SAME_FRAME, Frame
from frazil.evaluate.latents import latent_figures, leakage_figures
from frazil.evaluate.maps import family_mask
from frazil.evaluate.poses import align_rotations, pose_figures, shift_residuals
from frazil.evaluate.verb import map_figures, mean_volume, read_like, true_volumes
from frazil.numerics.fourier import resize_volume
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

_KINDS = {"latent": "latents", "latent_covariance": "covariances", "component": "components"}


def evaluate_reconstruction(
    outputs: Path, truth: Truth, mask_path: Path | None, symmetry: Tensor, images: int, oracle: bool = False
) -> dict[str, Any]:
    """Figures of a job: ``consensus``, ``half_maps``, ``poses``, ``latent``, ``components``, ``calibration``, ``states``,
    ``images``; with an oracle, those of the oracle too.

    Raises:
        InputError: if the job made nothing that can be compared, or is of other particles.
    """
    volumes, grid = true_volumes(truth)
    mask = family_mask(volumes) if mask_path is None else read_like(mask_path, grid)
    figures: dict[str, Any] = {"particles": {"count": truth.count, "states": len(volumes)}}
    figures["particles"]["mask"] = "round the true states" if mask_path is None else str(mask_path)
    frame = SAME_FRAME
    pose = estimated_pose(outputs, truth)
    if pose is not None:
        rotation, shift = torch.from_numpy(truth.rotation), torch.from_numpy(truth.shift)
        figures["poses"] = pose_figures(pose.rotation, pose.shift, rotation, shift, grid.pixel_size, symmetry)
        frame = common_frame(pose, rotation, shift, symmetry)
    if (outputs / "consensus.mrc").exists():
        consensus = frame.into_truth(read_on(outputs / "consensus.mrc", grid), grid)
        figures["consensus"] = map_figures(consensus, mean_volume(volumes, truth), grid, mask)
    if (outputs / "half_a.mrc").exists() and (outputs / "half_b.mrc").exists():
        halves = [frame.into_truth(read_on(outputs / name, grid), grid) for name in ("half_a.mrc", "half_b.mrc")]
        figures["half_maps"] = map_figures(halves[0], halves[1], grid, mask)
    latent = read_rows(outputs / "latent.npy", truth, 2)
    if latent is not None:
        circular = tuple(truth.facts.get("circular", ()))
        figures["latent"] = latent_figures(latent, truth.latent, truth.state, circular)
        figures["latent"] |= leakage_figures(latent, nuisances_of(truth))
        covariance = read_rows(outputs / "latent_covariance.npy", truth, 3)
        if covariance is not None and truth.latent is not None:
            figures["calibration"] = coverage_of_truth(latent, covariance, truth)
        if (outputs / "ensemble.json").exists():
            ensemble = load_ensemble(outputs)
            figures |= evaluate_ensemble(Decoder(ensemble, grid, frame), latent, truth, volumes, mask, images)
            if covariance is not None and isinstance(ensemble, ProjectingEnsemble) and frame.is_same(grid):
                found = coverage_of_latent(ensemble, latent, covariance, TrueMaps(truth, volumes, grid), images)
                figures["calibration"] = figures.get("calibration", {}) | found
    component = read_rows(outputs / "component.npy", truth, 1)
    if component is not None and len(volumes) > 1:
        figures["components"] = agreement_figures(component, truth.state)
    if oracle:
        figures["oracle"] = evaluate_oracle(truth, volumes, grid, mask, images)
    if len(figures) == 1:
        raise InputError("nothing here can be compared", where=outputs, remedy="give the folder of a reconstruct job")
    return figures


def estimated_pose(outputs: Path, truth: Truth) -> Pose | None:
    """The poses of the job, row by row those of the truth; None when it has none."""
    path = outputs / "particles.star"
    if not path.exists():
        return None
    particles = read_particles(path, need_images=False)
    if particles.count != truth.count:
        raise InputError(
            f"{particles.count} particles, but the truth is of {truth.count}",
            where=path,
            remedy="give the truth of these particles",
        )
    return particles.pose


def common_frame(pose: Pose, rotation: Tensor, shift: Tensor, symmetry: Tensor) -> Frame:
    """The frame of the result, from its poses."""
    alignment = align_rotations(pose.rotation, rotation, symmetry)
    offset = shift_residuals(pose.shift, shift, rotation)[1]
    return Frame(alignment.turn, offset)


def read_on(path: Path, grid: Grid) -> Tensor:
    """A map brought to a grid of the same extent.

    Raises:
        InputError: if the extents differ.
    """
    values, found = read_volume(path)
    if abs(found.extent / grid.extent - 1) > 0.01:
        raise InputError(
            f"the map is {found.extent:g} Å wide, the true ones {grid.extent:g} Å",
            where=path,
            remedy="give the truth of these particles",
        )
    return values if found.box_size == grid.box_size else resize_volume(values, grid.box_size)


def read_rows(path: Path, truth: Truth, dimensions: int) -> np.ndarray | None:
    """An array of the job with one row per particle; None when it has none.

    Raises:
        InputError: if it is of other particles, or a row is not a number.
    """
    if not path.exists():
        return None
    rows = read_npy(path, "reconstruct again")
    if rows.ndim != dimensions or len(rows) != truth.count:
        raise InputError(
            f"{_KINDS[path.stem]} of shape {rows.shape} for {truth.count} particles",
            where=path,
            remedy="give the truth of these particles",
        )
    there = np.isfinite(rows).reshape(truth.count, -1).all(1)
    if not there.all():
        raise InputError(f"row {int(np.argmin(there)) + 1} is not a number", where=path)
    return rows


def nuisances_of(truth: Truth) -> dict[str, np.ndarray]:
    """What a latent must not know: the pose and, where the simulation had a CTF, the defocus."""
    known = {"pose": truth.rotation.reshape(truth.count, 9)}
    path = truth.folder / "defocus.npy"
    return known | ({"defocus": np.load(path, allow_pickle=False)} if path.exists() else {})

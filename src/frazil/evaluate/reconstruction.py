"""A reconstruct job against the truth of its particles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frazil.data.ensemble import load_ensemble
from frazil.data.mrc import read_volume
from frazil.data.stack import read_particles
from frazil.data.truth import Truth
from frazil.errors import InputError
from frazil.evaluate.fsc import area_under, benchmark_curve, perfect_area
from frazil.evaluate.latents import latent_figures, leakage_figures
from frazil.evaluate.maps import areas_and_resolutions, difference_map_correlations, family_mask, spread
from frazil.evaluate.poses import align_rotations, pose_figures, shift_residuals
from frazil.evaluate.verb import map_figures, mean_volume, read_like, true_volumes
from frazil.numerics.fourier import resize_volume
from frazil.numerics.rotations import geodesic_angle
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose


@dataclass(frozen=True)
class Frame:
    """Where the result lies in the frame of the truth: ``x_result = turn (x_true + offset)``.

    Attributes:
        turn: 3 x 3, a reflection when the result has the other hand. offset: Å.
    """

    turn: Tensor
    offset: Tensor

    def is_same(self, grid: Grid) -> bool:
        """Whether the two frames differ by less than half a degree and a quarter of a pixel."""
        turned = torch.det(self.turn) < 0 or float(
            torch.rad2deg(geodesic_angle(self.turn, torch.eye(3, dtype=torch.float64)))
        )
        return float(turned) < 0.5 and float(self.offset.norm()) < grid.pixel_size / 4

    def into_truth(self, volume: Tensor, grid: Grid) -> Tensor:
        """A map of the result in the frame of the truth, by cubic splines; as it is when the frames are the same."""
        if self.is_same(grid):
            return volume
        from scipy.ndimage import affine_transform

        # scipy counts indices in (z, y, x)
        flip = torch.eye(3, dtype=torch.float64).flip(0)
        matrix = flip @ self.turn @ flip
        centre = torch.full((3,), grid.box_size // 2, dtype=torch.float64)
        start = centre + matrix @ (self.offset.flip(0) / grid.pixel_size - centre)
        turned = affine_transform(volume.numpy(), matrix.numpy(), start.numpy(), order=3)  # type: ignore[arg-type]
        return torch.from_numpy(turned)


SAME_FRAME = Frame(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


def evaluate_reconstruction(
    outputs: Path, truth: Truth, mask_path: Path | None, symmetry: Tensor, images: int
) -> dict[str, Any]:
    """Figures of a job: ``consensus``, ``half_maps``, ``poses``, ``latent``, ``states``, ``images``.

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
    latent = read_latent(outputs, truth)
    if latent is not None:
        circular = tuple(truth.facts.get("circular", ()))
        figures["latent"] = latent_figures(latent, truth.latent, truth.state, circular)
        figures["latent"] |= leakage_figures(latent, nuisances_of(truth))
        if (outputs / "ensemble.json").exists():
            decoder = Decoder(load_ensemble(outputs), grid, frame)
            figures |= evaluate_ensemble(decoder, latent, truth, volumes, mask, images)
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


def read_latent(outputs: Path, truth: Truth) -> np.ndarray | None:
    """The latents of the job, one row per particle; None when it has none."""
    path = outputs / "latent.npy"
    if not path.exists():
        return None
    latent = np.load(path, allow_pickle=False)
    if latent.ndim != 2 or len(latent) != truth.count:
        raise InputError(
            f"latents of shape {latent.shape} for {truth.count} particles",
            where=path,
            remedy="give the truth of these particles",
        )
    if not np.isfinite(latent).all():
        raise InputError(f"row {int(np.argmin(np.isfinite(latent).all(1))) + 1} is not a number", where=path)
    return latent


def nuisances_of(truth: Truth) -> dict[str, np.ndarray]:
    """What a latent must not know: the pose and, where the simulation had a CTF, the defocus."""
    known = {"pose": truth.rotation.reshape(truth.count, 9)}
    path = truth_folder(truth) / "defocus.npy"
    return known | ({"defocus": np.load(path, allow_pickle=False)} if path.exists() else {})


def truth_folder(truth: Truth) -> Path:
    """The folder that holds the truth."""
    return truth.volumes[0].parent.parent


@dataclass(frozen=True)
class Decoder:
    """Maps of an ensemble on the grid and in the frame of the truth."""

    ensemble: Ensemble
    grid: Grid
    frame: Frame

    def __call__(self, latent: np.ndarray) -> Tensor:
        own = self.ensemble.grid
        with torch.no_grad():
            values = self.ensemble.density(torch.from_numpy(np.asarray(latent))).voxels(own).detach().cpu().float()
        on_grid = values if own.box_size == self.grid.box_size else resize_volume(values, self.grid.box_size)
        return self.frame.into_truth(on_grid, self.grid)


def evaluate_ensemble(
    decoder: Decoder, latent: np.ndarray, truth: Truth, volumes: Tensor, mask: Tensor, images: int
) -> dict[str, Any]:
    """FSC areas per conformation and per image, and the correlation of difference maps.

    Per conformation: decoded at the mean latent of each state's particles. Per image: decoded at the particle's own
    latent and compared with its own true map, for particles spread evenly over the rows.
    """
    n = volumes.shape[-1]
    there = [state for state in range(len(volumes)) if (truth.state == state).any()]
    decoded = torch.stack([decoder(latent[truth.state == state].mean(0)) for state in there])
    areas, resolutions = areas_and_resolutions(decoded, volumes[there], mask)
    differences = difference_map_correlations(decoded, volumes[there], mask) if len(there) > 1 else []
    figures: dict[str, Any] = {
        "states": {
            "fsc_auc": spread(areas),
            "perfect_fsc_auc": perfect_area(n),
            "resolution_0.5_px": spread(resolutions),
            "per_state_fsc_auc": areas.tolist(),
        }
    }
    if differences:
        figures["states"]["difference_map_correlation"] = spread(torch.tensor(differences))
        figures["states"]["per_state_difference_map_correlation"] = differences
    if images:
        figures["images"] = image_figures(decoder, latent, truth, volumes, mask, images)
    return figures


def image_figures(
    decoder: Decoder, latent: np.ndarray, truth: Truth, volumes: Tensor, mask: Tensor, images: int
) -> dict[str, Any]:
    """FSC areas of the maps decoded for single particles (CryoBench's per-image FSC-AUC)."""
    n, count = volumes.shape[-1], len(latent)
    rows = np.arange(0, count, max(1, count // images))[:images]
    true_map = TrueMaps(truth, volumes, decoder.grid)
    pairs = ((decoder(latent[row]), true_map(int(row))) for row in rows)
    areas = torch.tensor([area_under(benchmark_curve(a, b, mask), n) for a, b in pairs])
    return {"fsc_auc": spread(areas), "perfect_fsc_auc": perfect_area(n), "count": len(rows), "exact": true_map.exact}


class TrueMaps:
    """The true map of any particle: exact when the simulation left its molecule, else that of the nearest state."""

    def __init__(self, truth: Truth, volumes: Tensor, grid: Grid) -> None:
        self._truth, self._volumes, self._grid = truth, volumes, grid
        folder = truth_folder(truth)
        self._molecule = load_ensemble(folder) if (folder / "ensemble.json").exists() else None

    @property
    def exact(self) -> bool:
        """Whether every map is the particle's own: a continuous motion needs the molecule for that."""
        return self._molecule is not None or self._truth.latent is None

    def __call__(self, row: int) -> Tensor:
        if self._molecule is None or self._truth.latent is None:
            return self._volumes[int(self._truth.state[row])]
        return self._molecule.density(torch.from_numpy(self._truth.latent[row])).voxels(self._grid).float()

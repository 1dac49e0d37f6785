"""A reconstruct job against the truth of its particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frazil.data.ensemble import load_ensemble
from frazil.data.mrc import read_volume
from frazil.data.truth import Truth
from frazil.errors import InputError
from frazil.evaluate.alignment import align_maps, alignment_figures
from frazil.evaluate.calibration import ProjectingEnsemble, coverage_of_latent, coverage_of_truth
from frazil.evaluate.class_poses import ClassPoses, class_pose_figures, class_poses
from frazil.evaluate.classes import agreement_figures
from frazil.evaluate.families import Decoder, TrueMaps, evaluate_ensemble, evaluate_oracle, true_defocus
from frazil.evaluate.frame import SAME_FRAME, Frame, Frames
from frazil.evaluate.junk import junk_figures
from frazil.evaluate.latents import latent_figures, leakage_figures
from frazil.evaluate.maps import areas_and_resolutions, family_mask, spread
from frazil.evaluate.poses import pose_errors, pose_figures
from frazil.evaluate.scored import Scored, scored_particles
from frazil.evaluate.verb import map_figures, mean_volume, read_like, true_volumes
from frazil.numerics.fourier import resize_volume
from frazil.physics.grid import Grid


def evaluate_reconstruction(
    outputs: Path,
    whole_truth: Truth,
    mask_path: Path | None,
    symmetry: Tensor,
    images: int,
    oracle: bool = False,
    align: bool = False,
    listed: Path | None = None,
) -> dict[str, Any]:
    """Figures of a job: ``consensus``, ``half_maps``, ``poses``, ``latent``, ``components``, ``calibration``, ``states``,
    ``images``, ``junk``; with an oracle, those of the oracle too.

    Maps are compared in the frame of the truth, which the poses tell of, or the consensus when ``align`` asks for that.

    Raises:
        InputError: if the job made nothing that can be compared, or is of other particles.
    """
    volumes, grid = true_volumes(whole_truth)
    mask = family_mask(volumes) if mask_path is None else read_like(mask_path, grid)
    scored = scored_particles(outputs, whole_truth, listed)
    truth = scored.truth
    made: dict[str, Any] = {}
    component = scored.read(outputs / "component.npy", 1)
    classes = None
    if component is not None and len(volumes) > 1:
        made["components"] = agreement_figures(component, truth.state)
        if scored.pose is not None:
            classes = class_poses(scored.pose, scored.true_pose, component, truth.state, symmetry)
            made["class_poses"] = class_pose_figures(classes, grid.pixel_size)
    common = SAME_FRAME
    if scored.pose is not None:
        errors = pose_errors(scored.pose, scored.true_pose, symmetry)
        made["poses"] = pose_figures(errors, grid.pixel_size)
        common = Frame.of_poses(errors)
    if align:
        if not (outputs / "consensus.mrc").exists():
            raise InputError("there is no consensus.mrc to align", where=outputs, remedy="leave out --align")
        found = align_maps(read_on(outputs / "consensus.mrc", grid), mean_volume(volumes, truth), grid)
        common = found.frame
        made["alignment"] = alignment_figures(found)
    frames = frames_of(common, classes, component)
    made |= _maps(outputs, common, mean_volume(volumes, truth), grid, mask)
    if classes is not None:
        made |= _class_maps(outputs, frames, classes, volumes, grid, mask)
    made |= _conformations(outputs, scored, frames, volumes, grid, mask, images)
    made |= junk_figures(outputs, whole_truth)
    if oracle:
        made["oracle"] = evaluate_oracle(truth, volumes, grid, mask, images)
    if not made:
        raise InputError("nothing here can be compared", where=outputs, remedy="give the folder of a reconstruct job")
    facts = {"count": truth.count, "states": len(volumes)}
    facts |= {"mask": "round the true states" if mask_path is None else str(mask_path)}
    return {"particles": facts} | made


def frames_of(common: Frame, classes: ClassPoses | None, component: np.ndarray | None) -> Frames:
    """One frame for all maps, unless classes were found in frames of their own."""
    if classes is None or component is None:
        return Frames(common)
    found = classes.frames()
    if not any(frame.differs_from(common) for frame in found.values()):
        return Frames(common)
    return Frames(common, found, component)


def _maps(outputs: Path, frame: Frame, mean: Tensor, grid: Grid, mask: Tensor) -> dict[str, Any]:
    """Figures of the consensus map and of the half-maps."""
    figures: dict[str, Any] = {}
    if (outputs / "consensus.mrc").exists():
        consensus = frame.into_truth(read_on(outputs / "consensus.mrc", grid), grid)
        figures["consensus"] = map_figures(consensus, mean, grid, mask)
    if (outputs / "half_a.mrc").exists() and (outputs / "half_b.mrc").exists():
        halves = [frame.into_truth(read_on(outputs / name, grid), grid) for name in ("half_a.mrc", "half_b.mrc")]
        figures["half_maps"] = map_figures(halves[0], halves[1], grid, mask)
    return figures


def _class_maps(
    outputs: Path, frames: Frames, classes: ClassPoses, volumes: Tensor, grid: Grid, mask: Tensor
) -> dict[str, Any]:
    """Figures of the map of each class that stands for a state, in its own frame."""
    paths = {label: outputs / f"component_{label:03d}" / "consensus.mrc" for label in classes.state_of}
    there = [label for label, path in paths.items() if path.exists() and classes.state_of[label] >= 0]
    if not there:
        return {}
    turned = [
        frames.by_class.get(label, frames.common).into_truth(read_on(paths[label], grid), grid) for label in there
    ]
    states = [classes.state_of[label] for label in there]
    areas, resolutions = areas_and_resolutions(torch.stack(turned), volumes[states], mask)
    return {"class_maps": {"count": len(there), "fsc_auc": spread(areas), "resolution_0.5_px": spread(resolutions)}}


def _conformations(
    outputs: Path, scored: Scored, frames: Frames, volumes: Tensor, grid: Grid, mask: Tensor, images: int
) -> dict[str, Any]:
    """Figures of latents, their covariances, and what the ensemble makes of them, each particle judged once."""
    once = scored.views.first.numpy()
    scored, frames = scored.select(once), frames.select(once)
    latent, truth = scored.read(outputs / "latent.npy", 2), scored.truth
    if latent is None:
        return {}
    circular = tuple(truth.facts.get("circular", ()))
    figures: dict[str, Any] = {"latent": latent_figures(latent, truth.latent, truth.state, circular)}
    figures["latent"] |= leakage_figures(latent, nuisances_of(truth))
    covariance = scored.read(outputs / "latent_covariance.npy", 3)
    if covariance is not None and truth.latent is not None:
        figures["calibration"] = coverage_of_truth(latent, covariance, truth)
    if (outputs / "ensemble.json").exists():
        ensemble = load_ensemble(outputs)
        figures |= evaluate_ensemble(Decoder(ensemble, grid, frames), latent, truth, volumes, mask, images)
        same = frames.common.is_same(grid) and not frames.by_class
        if covariance is not None and isinstance(ensemble, ProjectingEnsemble) and same:
            found = coverage_of_latent(ensemble, latent, covariance, TrueMaps(truth, volumes, grid), images)
            figures["calibration"] = figures.get("calibration", {}) | found
    return figures


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


def nuisances_of(truth: Truth) -> dict[str, np.ndarray]:
    """What a latent must not know: the pose and, where the simulation had a CTF, the defocus."""
    known, defocus = {"pose": truth.rotation.reshape(truth.count, 9)}, true_defocus(truth)
    return known if defocus is None else known | {"defocus": defocus}

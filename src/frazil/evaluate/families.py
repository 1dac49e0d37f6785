"""A family of maps against the true family: an ensemble decoded state by state and particle by particle, or the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from frazil.data.ensemble import load_ensemble
from frazil.data.stack import Particles, read_particles
from frazil.data.truth import Truth
from frazil.errors import InputError
from frazil.evaluate.classes import agreement_figures, best_assignment
from frazil.evaluate.frame import Frame, Frames
from frazil.evaluate.fsc import perfect_area
from frazil.evaluate.maps import areas_and_resolutions, difference_map_correlations, spread
from frazil.evaluate.oracle import TRIALS, Oracle, most_likely_states
from frazil.numerics.fourier import resize_volume
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose


@final
@dataclass(frozen=True)
class Decoder:
    """Maps of an ensemble on the grid and in the frame of the truth; the frame is that of a particle."""

    ensemble: Ensemble
    grid: Grid
    frames: Frames

    def __call__(self, latent: np.ndarray, frame: Frame) -> Tensor:
        own = self.ensemble.grid
        with torch.no_grad():
            values = self.ensemble.density(torch.from_numpy(np.asarray(latent))).voxels(own).detach().cpu().float()
        on_grid = values if own.box_size == self.grid.box_size else resize_volume(values, self.grid.box_size)
        return frame.into_truth(on_grid, self.grid)


@final
class TrueMaps:
    """The true map of any particle: exact when the simulation left its molecule, else that of the nearest state."""

    def __init__(self, truth: Truth, volumes: Tensor, grid: Grid) -> None:
        self._truth, self._volumes, self._grid = truth, volumes, grid
        self._molecule = load_ensemble(truth.folder) if (truth.folder / "ensemble.json").exists() else None

    @property
    def exact(self) -> bool:
        """Whether every map is the particle's own: a continuous motion needs the molecule for that."""
        return self._molecule is not None or self._truth.latent is None

    def __call__(self, row: int) -> Tensor:
        if self._molecule is None or self._truth.latent is None:
            return self._volumes[int(self._truth.state[row])]
        return self._molecule.density(torch.from_numpy(self._truth.latent[row])).voxels(self._grid).float()


def evaluate_ensemble(
    decoder: Decoder, latent: np.ndarray, truth: Truth, volumes: Tensor, mask: Tensor, images: int
) -> dict[str, Any]:
    """Figures per conformation and per image.

    Per conformation: decoded at the mean latent of each state's particles; where classes have frames of their own, of the
    particles of its class, and a state without a class has an empty map. Per image: decoded at the particle's own
    latent and compared with its own true map, for particles spread evenly over the rows.
    """
    there = states_of(truth)
    class_of = {} if decoder.frames.component is None else best_assignment(truth.state, decoder.frames.component)

    def of_state(state: int) -> Tensor:
        if decoder.frames.component is None:
            return decoder(latent[truth.state == state].mean(0), decoder.frames.common)
        rows = np.flatnonzero(decoder.frames.component == class_of[state])
        if len(rows) == 0:
            return torch.zeros_like(volumes[0])
        return decoder(latent[rows].mean(0), decoder.frames.of(int(rows[0])))

    decoded = (of_state(state) for state in there)
    figures: dict[str, Any] = {"states": state_figures(decoded, volumes[there], mask)}
    if images:
        rows = spread_rows(truth.count, images)
        true_maps = TrueMaps(truth, volumes, decoder.grid)
        figures["images"] = image_figures(
            lambda row: decoder(latent[row], decoder.frames.of(row)), true_maps, rows, mask
        )
    return figures


def evaluate_oracle(truth: Truth, volumes: Tensor, grid: Grid, mask: Tensor, images: int) -> dict[str, Any]:
    """The same figures of maps from images with everything known: see `evaluate.oracle`.

    Raises:
        InputError: if the simulated images are no longer beside the truth.
    """
    path = truth.folder.parent / "particles.star"
    if not path.exists():
        raise InputError("the oracle needs the simulated images", where=path, remedy="leave out --oracle")
    particles = as_it_is(read_particles(path), truth)
    there = states_of(truth)

    def where(state: int) -> np.ndarray | int:
        return state if truth.volume_latents is None else truth.volume_latents[state]

    tried = [there[place] for place in spread_rows(len(there), TRIALS)]
    oracle = Oracle(particles, truth, grid, [where(state) for state in tried], list(volumes[tried]), mask)
    figures: dict[str, Any] = {
        "filter": oracle.choice.name,
        "images_of_a_map": oracle.choice.images or "those of the state",
        "states": state_figures((oracle(where(state)) for state in there), volumes[there], mask),
    }
    if truth.latent is None and len(there) > 1:
        figures["classes"] = agreement_figures(most_likely_states(particles, truth, volumes, grid), truth.state)
    if images:

        def own(row: int) -> Tensor:
            return oracle(int(truth.state[row]) if truth.latent is None else truth.latent[row])

        rows = spread_rows(truth.count, images)
        figures["images"] = image_figures(own, TrueMaps(truth, volumes, grid), rows, mask)
    return figures


def as_it_is(particles: Particles, truth: Truth) -> Particles:
    """Simulated particles of a truth with their true poses and defocus, which their table may have with errors."""
    chosen = particles if truth.rows is None else particles[truth.rows]
    pose = Pose(torch.from_numpy(truth.rotation).float(), torch.from_numpy(truth.shift).float())
    defocus = true_defocus(truth)
    if chosen.optics is None or defocus is None:
        return chosen.given(pose=pose)
    u, v = torch.from_numpy(defocus).to(chosen.optics.defocus_u).unbind(1)
    return chosen.given(pose=pose, optics=replace(chosen.optics, defocus_u=u, defocus_v=v))


def true_defocus(truth: Truth) -> np.ndarray | None:
    """Largest and smallest defocus of every particle, Å; None where the simulation had no CTF."""
    path = truth.folder / "defocus.npy"
    if not path.exists():
        return None
    defocus = np.load(path, allow_pickle=False)
    return defocus if truth.rows is None else defocus[truth.rows]


def states_of(truth: Truth) -> list[int]:
    """The states that have particles."""
    return np.unique(truth.state).tolist()


def spread_rows(count: int, wanted: int) -> list[int]:
    """Rows evenly over all of them (CryoBench's choice)."""
    return list(range(0, count, max(1, count // wanted)))[:wanted]


def state_figures(decoded: Iterable[Tensor], true: Tensor, mask: Tensor) -> dict[str, Any]:
    """Of one map per state; lists hold the figure of each."""
    figures, lists = _figures(zip(decoded, true, strict=True), mask)
    return figures | {f"per_state_{name}": values for name, values in lists.items()}


def image_figures(made: Callable[[int], Tensor], true_map: TrueMaps, rows: list[int], mask: Tensor) -> dict[str, Any]:
    """Of the maps of single particles (CryoBench's per-image FSC-AUC)."""
    pairs = ((made(row), true_map(row)) for row in rows)
    return _figures(pairs, mask)[0] | {"count": len(rows), "exact": true_map.exact}


def _figures(pairs: Iterable[tuple[Tensor, Tensor]], mask: Tensor) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Areas, resolutions, and, where the true maps differ, difference maps: spreads, and the list behind each.

    Of each pair of a made and a true map only what is inside the mask is kept: a hundred whole maps may not fit in memory.
    """
    inside, curves, kept = mask > 0, [], []
    for made, true in pairs:
        curves.append(areas_and_resolutions(made[None], true[None], mask))
        kept.append((made[inside], true[inside]))
    made, true = (torch.stack(maps) for maps in zip(*kept, strict=True))
    areas, resolutions = (torch.cat(values) for values in zip(*curves, strict=True))
    found = {"fsc_auc": areas, "resolution_0.5_px": resolutions}
    if float((true - true[0]).abs().max()) > 1e-4 * float(true.abs().max()):
        found["difference_map_correlation"] = torch.tensor(difference_map_correlations(made, true, mask[inside]))
    figures: dict[str, Any] = {name: spread(values) for name, values in found.items()}
    figures["perfect_fsc_auc"] = perfect_area(mask.shape[-1])
    return figures, {name: values.tolist() for name, values in found.items()}

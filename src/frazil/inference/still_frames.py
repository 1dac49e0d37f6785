"""Maps of one molecule in several conformations, laid on each other so that most of it stands still.

No image tells in which frame a conformation stands: turn its map, and its particles the other way, and the images are the
same. Poses found with one rigid map give each conformation a frame in which every domain has gone a part of the way. Here
two maps are laid on each other by the half of the molecule that fits best then, found by turns: lay, see which half agrees,
lay that half (least trimmed squares; Rousseeuw 1984). It begins with what agrees best at first and with what agrees worst,
and the frame in which the better half differs less is taken: a domain that is more than half of the molecule fills it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from torch import Tensor

from frazil.numerics.fourier import fourier_resize
from frazil.physics.grid import Grid

# voxels a side at most, and points of a map that are compared: where it is above this share of its strongest
LARGEST_BOX, MOST_POINTS, LEVEL = 64, 4_000, 0.15
# the share of the points that a fit goes by, and how far agreement is smeared out, as a share of the box
CORE, NEIGHBOURHOOD = 0.5, 0.04
# differences above this share of the strongest density count by their size, smaller ones by their square
SMALL = 0.03
# comparisons of two maps in a fit at most, fits by turns, and rounds in which all are laid on their median
COMPARISONS, TURNS, ROUNDS = 12, 6, 8


@final
@dataclass(frozen=True)
class StillFrames:
    """Where the points of a still molecule are in each map: at ``turn x + offset``.

    Attributes:
        turn: one for each map. offset: Å.
    """

    turn: Float[Tensor, "maps 3 3"]
    offset: Float[Tensor, "maps 3"]


def still_frames(maps: Float[Tensor, "maps n n n"], places: Float[Tensor, "maps latent"], grid: Grid) -> StillFrames:
    """The frames of maps in which most of the molecule stands still; that of the most central map is kept.

    Every map is laid on the one of its neighbours in the latent space that lies already, where little has moved; then all
    on the median of all, by the half that changes least over all of the motion. The latter begins with the frames as they
    are, too, and the frames in which that half changes less are taken.

    Args:
        maps: filtered, without their solvent. places: latents of the conformations. grid: of the maps.
    """
    box = min(grid.box_size, LARGEST_BOX)
    values = fourier_resize(maps.double(), box, 3) if box < grid.box_size else maps.double()
    shown = [_Map((volume / volume.abs().max().clamp(min=1e-30)).numpy()) for volume in values]
    first = int(torch.cdist(places.double(), places.double()).sum(1).argmin())
    starts = [_chained(shown, places.double(), first), [_SAME] * len(shown)]
    found = min((_on_median(shown, frames) for frames in starts), key=lambda pair: pair[0])[1]
    kept = found[first].inverse()
    found = [kept.then(frame) for frame in found]
    turns, offsets = zip(*((frame.turn.as_matrix(), frame.offset) for frame in found), strict=True)
    return StillFrames(torch.from_numpy(np.stack(turns)), torch.from_numpy(np.stack(offsets)) * (grid.extent / box))


@final
@dataclass(frozen=True)
class _Frame:
    """A frame in voxels."""

    turn: Rotation
    offset: Float[np.ndarray, " 3"]

    def inverse(self) -> _Frame:
        """Where the points of the map are in the still molecule."""
        back = self.turn.inv()
        return _Frame(back, -back.apply(self.offset))

    def then(self, other: _Frame) -> _Frame:
        """This movement first, and the other after it."""
        return _Frame(other.turn * self.turn, other.turn.apply(self.offset) + other.offset)


_SAME = _Frame(Rotation.identity(), np.zeros(3))


@final
class _Map:
    """A map and its slopes, to be looked up between its voxels."""

    def __init__(self, values: Float[np.ndarray, "n n n"]) -> None:
        self.values = values
        # along x, y and z, of an array that counts (z, y, x)
        self.slopes = np.gradient(self.values)[::-1]
        self.middle = len(self.values) // 2

    def at(self, points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, " points"]:
        """Values at points (x, y, z), voxels from the origin."""
        return self._looked_up(self.values, points)

    def slope_at(self, points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        """Slopes along x, y and z."""
        return np.stack([self._looked_up(slope, points) for slope in self.slopes], axis=1)

    def _looked_up(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        return map_coordinates(values, points.T[::-1] + self.middle, order=1)

    def inside(self) -> Bool[np.ndarray, "n n n"]:
        """Where the molecule is."""
        return self.values > LEVEL * self.values.max()

    def moved(self, frame: _Frame) -> Float[np.ndarray, "n n n"]:
        """The map of the still molecule."""
        return self.at(frame.turn.apply(points_of(self.values.shape[0])) + frame.offset).reshape(self.values.shape)


def points_of(box: int) -> Float[np.ndarray, "points 3"]:
    """All voxels (x, y, z) from the origin, in the order of a volume."""
    axis = np.arange(box) - box // 2
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1].astype(np.float64)


def _on_median(shown: list[_Map], frames: list[_Frame]) -> tuple[float, list[_Frame]]:
    """All maps laid on their median, in rounds; with how much the half that changes least changes still."""
    change = np.inf
    for _ in range(ROUNDS):
        moved = np.stack([one.moved(frame) for one, frame in zip(shown, frames, strict=True)])
        median = _Map(np.median(moved, axis=0))
        apart = np.abs(moved - median.values).mean(0)
        core = _best_half(apart, median.values, median.inside())
        change = float(apart[core].mean() / median.values[core].mean())
        frames = [_fitted(median, one, frame, core) for one, frame in zip(shown, frames, strict=True)]
    return change, frames


def _chained(shown: list[_Map], places: Float[Tensor, "maps latent"], first: int) -> list[_Frame]:
    """Every map laid on its nearest neighbour among those that lie already, which is the first one to begin with."""
    apart = torch.cdist(places, places)
    found, still = {first: _SAME}, {first: shown[first]}
    while len(found) < len(shown):
        left = [each for each in range(len(shown)) if each not in found]
        there = list(found)
        row, column = divmod(int(apart[left][:, there].argmin()), len(there))
        new, neighbour = left[row], there[column]
        found[new] = _laid_on(still[neighbour], shown[new], found[neighbour])
        still[new] = _Map(shown[new].moved(found[new]))
    return [found[each] for each in range(len(shown))]


def _laid_on(target: _Map, one: _Map, start: _Frame) -> _Frame:
    """The frame of a map in which half of it fits another best, of those that what agrees or what does not leads to."""
    inside = target.inside()
    points, wanted = points_of(len(inside))[inside.reshape(-1)], target.values[inside]

    def difference(frame: _Frame) -> Float[np.ndarray, "n n n"]:
        found = np.zeros_like(target.values)
        found[inside] = np.abs(one.at(frame.turn.apply(points) + frame.offset) - wanted)
        return found

    agreeing = _best_half(difference(start), target.values, inside)
    found: list[tuple[float, _Frame]] = []
    for core in (agreeing, inside & ~agreeing):
        frame = start
        for _ in range(TURNS):
            frame = _fitted(target, one, frame, core)
            apart = difference(frame)
            before, core = core, _best_half(apart, target.values, inside)
            if bool((before == core).all()):
                break
        found.append((float(apart[core].mean()), frame))
    return min(found, key=lambda pair: pair[0])[1]


def _best_half(
    difference: Float[np.ndarray, "n n n"], values: Float[np.ndarray, "n n n"], inside: Bool[np.ndarray, "n n n"]
) -> Bool[np.ndarray, "n n n"]:
    """The half of the molecule in whose neighbourhoods there is least difference for the density that is there."""
    width = NEIGHBOURHOOD * len(values)
    share = gaussian_filter(difference * inside, width) / gaussian_filter(values * inside, width).clip(min=1e-9)
    return inside & (share <= np.quantile(share[inside], CORE))


def _fitted(target: _Map, one: _Map, start: _Frame, core: Bool[np.ndarray, "n n n"]) -> _Frame:
    """The frame near a first one in which a map differs least from another at chosen voxels."""
    points = points_of(len(core))[core.reshape(-1)]
    points = points[:: max(1, len(points) // MOST_POINTS)]
    wanted = target.at(points)

    def frame_of(change: np.ndarray) -> _Frame:
        return _Frame(Rotation.from_rotvec(change[:3]) * start.turn, start.offset + change[3:6])

    def difference(change: np.ndarray) -> np.ndarray:
        frame = frame_of(change)
        return change[6] * one.at(frame.turn.apply(points) + frame.offset) - wanted

    def slopes(change: np.ndarray) -> np.ndarray:
        frame = frame_of(change)
        turned = frame.turn.apply(points)
        slope = change[6] * one.slope_at(turned + frame.offset)
        # a further small rotation w moves a turned point p by w x p
        return np.column_stack((np.cross(turned, slope), slope, one.at(turned + frame.offset)))

    begin = np.array([0.0, 0, 0, 0, 0, 0, 1])
    settings = {"loss": "soft_l1", "f_scale": SMALL * float(wanted.max()), "x_scale": "jac", "max_nfev": COMPARISONS}
    found = least_squares(difference, begin, slopes, **settings)  # type: ignore[arg-type]
    return frame_of(found.x)

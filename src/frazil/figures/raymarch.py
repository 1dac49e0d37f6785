"""A shaded picture of an iso-surface: parallel rays marched through a map until they meet it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from frazil.figures.style import Array, as_array
from frazil.numerics.fourier import resize_volume

# camera on the positive axis looking at the centre; the two axes on paper follow cyclically: (x, y), (y, z), (z, x)
VIEWS: dict[str, np.ndarray] = {
    "z": np.eye(3),
    "x": np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "y": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
}


def contour_level(volume: Array) -> float:
    """A contour level that shows a molecule: Otsu's threshold of the map's strong density.

    Otsu (1979) chooses the level that separates two classes of voxels best. Solvent would make one class of nearly
    all voxels, so only voxels more than 1.5 standard deviations above the mean
    of the box are asked.
    """
    values = as_array(volume).astype(np.float64)
    floor = max(0.0, float(values.mean() + 1.5 * values.std()))
    signal = values[values > floor]
    if signal.size < 16:
        return float(values.mean() + 0.5 * (values.max() - values.mean()))
    counts, edges = np.histogram(signal, bins=256)
    middles = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        separation = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(middles[int(np.nanargmax(separation))])


@dataclass(frozen=True)
class Frame:
    """The part of the view that a picture shows, in fractions of the box.

    Attributes:
        x, y: middle of the picture in the view frame. width: its side. depth: how far apart the nearest and farthest
            points that may be seen lie.
    """

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    depth: float = 1.2


def fitting_frame(volumes: Sequence[Array], level: float, rotation: Array) -> Frame:
    """The square that holds what all the maps have above a level, with a margin, seen along a direction.

    One percent of the voxels may lie outside, so that a speck of noise in a corner does not shrink the molecule.
    """
    filled = np.maximum.reduce([as_array(volume) for volume in volumes]) > level
    size = filled.shape[0]
    place = (np.argwhere(filled)[:, ::-1] - size // 2) / size
    if not len(place):
        return Frame()
    seen = place @ as_array(rotation).astype(np.float64).T
    low, high = np.quantile(seen, (0.005, 0.995), axis=0)
    width = float(max(high[0] - low[0], high[1] - low[1])) + 0.1 * float(max(high - low)) + 3 / size
    depth = 2 * float(np.abs(seen[:, 2]).max()) + 4 / size
    middle = 0.5 * (low + high)
    return Frame(float(middle[0]), float(middle[1]), max(width, 0.1), depth)


def render_surface(
    volume: Array,
    level: float,
    rotation: Array | None = None,
    *,
    size: int = 420,
    colour: str | Sequence[float] = "#6fa8dc",
    frame: Frame | None = None,
    paint: Callable[[Float[Tensor, "points 3"]], Float[np.ndarray, "points 3"]] | None = None,
) -> Float[np.ndarray, "size size 4"]:
    """Picture of the surface `volume = level`, seen from the +z side of the view frame x_view = R x_object.

    The first crossing along each ray is found on the sampled ray and then bisected; the normal is the gradient of the
    map there. Light comes from the upper left; hollows are darkened by how far they lie behind their neighbourhood
    (screen-space ambient occlusion), and steps in depth get a thin outline.

    Args:
        volume: (n, n, n) density, (z, y, x).
        level: contour level in the map's own units.
        rotation: (3, 3) object to view; the identity looks down the z axis.
        size: pixels along each side of the picture.
        colour: surface colour, as a matplotlib colour.
        frame: the part of the view to show; None fits the surface.
        paint: gives the colour (red, green, blue in 0-1) at points of the surface, in fractions of the box (x, y, z)
            from its centre, in place of the one colour.

    Returns:
        Red, green, blue and opacity in 0-1; row 0 is the top of the picture. Rays that meet nothing are transparent.
    """
    from matplotlib.colors import to_rgb

    turn = np.eye(3) if rotation is None else as_array(rotation).astype(np.float64)
    shown = fitting_frame([volume], level, turn) if frame is None else frame
    values = as_array(volume).astype(np.float32)
    space = _empty_space(values, level)
    fine = torch.from_numpy(_fine(values))
    depth, hit, normal = _first_hit(fine, space, level, torch.from_numpy(turn).float(), shown, size)
    tint = np.asarray(to_rgb(colour))  # type: ignore[arg-type]
    if paint is not None:
        tint = np.broadcast_to(tint, (size, size, 3)).copy()
        tint[hit] = paint(_surface_points(depth, hit, torch.from_numpy(turn).float(), shown, size))
    return _shade(depth, hit, normal, tint, shown.width / size)


def _surface_points(depth: np.ndarray, hit: np.ndarray, turn: Tensor, frame: Frame, size: int) -> Tensor:
    """Where the rays met the surface, in fractions of the box from its centre."""
    across = ((torch.arange(size) + 0.5) / size - 0.5) * frame.width
    y, x = torch.meshgrid(frame.y - across, frame.x + across, indexing="ij")
    met = torch.from_numpy(hit)
    return torch.stack([x[met], y[met], torch.from_numpy(depth).float()[met]], -1) @ turn


def values_at(volume: Array, points: Float[Tensor, "points 3"]) -> Float[np.ndarray, " points"]:
    """Trilinear values of a map at points of its surface, as a `paint` is given them."""
    return _sample(torch.from_numpy(as_array(volume).astype(np.float32)), points).numpy()


def _fine(values: np.ndarray) -> np.ndarray:
    """Twice finer by zero-padding the transform of small boxes: a trilinear surface shows its voxels, this does not."""
    if values.shape[0] > 128:
        return values
    return resize_volume(torch.from_numpy(values), 2 * values.shape[0]).numpy()


def _sample(volume: Tensor, points: Float[Tensor, "... 3"]) -> Float[Tensor, "..."]:
    """Trilinear values at points (x, y, z) given as fractions of the box from its centre voxel n//2; zero outside."""
    size = volume.shape[0]
    index = points * size + size // 2
    where = (2 * index / (size - 1) - 1).reshape(1, 1, 1, -1, 3)
    return F.grid_sample(volume[None, None], where, align_corners=True).reshape(points.shape[:-1])


def _empty_space(values: np.ndarray, level: float) -> Float[Tensor, "m m m"]:
    """For places on a coarse grid, how far (fraction of the box) no voxel above the level lies: safe to leap over."""
    size = values.shape[0]
    block = -(-size // 64)
    blocks = -(-size // block)
    filled = np.zeros((blocks * block,) * 3, dtype=bool)
    filled[:size, :size, :size] = values > level
    coarse = filled.reshape(blocks, block, blocks, block, blocks, block).any(axis=(1, 3, 5))
    away = ndimage.distance_transform_edt(~coarse) if coarse.any() else np.full(coarse.shape, 4.0 * blocks)
    # less half a diagonal of a block at either end, the interpolation between blocks, and the offset of their centres
    return torch.from_numpy(np.clip((np.asarray(away) - 3.5) * block / size, 0, None).astype(np.float32))


def _first_hit(
    volume: Tensor, space: Tensor, level: float, turn: Tensor, frame: Frame, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    across = ((torch.arange(size) + 0.5) / size - 0.5) * frame.width
    y, x = (one.ravel() for one in torch.meshgrid(frame.y - across, frame.x + across, indexing="ij"))
    spacing = 1.33 / volume.shape[0]
    front = torch.full((size * size,), float("nan"))
    ray = torch.arange(size * size)  # those still on their way
    place = torch.full((size * size,), frame.depth / 2)
    while len(ray):
        points = torch.stack([x[ray], y[ray], place], -1) @ turn
        met = _sample(volume, points) > level
        front[ray[met]] = place[met]
        place = place - _sample(space, points).clamp(min=spacing)
        ray, place = ray[~met & (place > -frame.depth / 2)], place[~met & (place > -frame.depth / 2)]
    front = front.reshape(size, size)
    hit = ~torch.isnan(front)
    inside, outside = front[hit], front[hit] + spacing
    rays = torch.stack([x.reshape(size, size)[hit], y.reshape(size, size)[hit]], -1)
    for _ in range(6):
        middle = 0.5 * (inside + outside)
        above = _sample(volume, torch.cat([rays, middle[:, None]], -1) @ turn) > level
        inside, outside = torch.where(above, middle, inside), torch.where(above, outside, middle)
    points = torch.cat([rays, inside[:, None]], -1)
    h = 1.0 / volume.shape[0]
    axes = h * torch.eye(3)
    gradient = torch.stack(
        [_sample(volume, (points - a) @ turn) - _sample(volume, (points + a) @ turn) for a in axes], -1
    )
    normal = torch.zeros(size, size, 3)
    normal[hit] = F.normalize(gradient, dim=-1)
    depth = torch.zeros(size, size)
    depth[hit] = inside
    return depth.numpy(), hit.numpy(), normal.numpy()


def _shade(depth: np.ndarray, hit: np.ndarray, normal: np.ndarray, colour: np.ndarray, pixel: float) -> np.ndarray:
    if not hit.any():
        return np.zeros((*hit.shape, 4))
    far = depth[hit].min() - 0.02
    relief = np.where(hit, depth, far)
    light, fill = np.array([-0.45, 0.55, 0.70]), np.array([0.6, -0.2, 0.75])
    diffuse = 0.72 * np.clip(normal @ (light / np.linalg.norm(light)), 0, 1)
    diffuse += 0.26 * np.clip(normal @ (fill / np.linalg.norm(fill)), 0, 1)
    halfway = light / np.linalg.norm(light) + np.array([0, 0, 1.0])
    shine = 0.16 * np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 24
    open_sky = np.ones_like(relief)
    for reach in (0.012, 0.03, 0.07):
        behind = ndimage.gaussian_filter(relief, reach / pixel) - relief
        open_sky *= 1 - 0.42 * np.clip(behind / (1.3 * reach), 0, 1)
    span = max(float(np.ptp(depth[hit])), 1e-6)
    nearness = (depth - depth[hit].min()) / span
    step = relief - ndimage.minimum_filter(relief, size=3)
    outline = 1 - 0.55 * np.clip((step - 6 * pixel) / (12 * pixel), 0, 1)
    brightness = (0.40 + diffuse) * open_sky * (0.70 + 0.30 * nearness) * outline
    rgb = brightness[..., None] * colour + (shine * open_sky)[..., None]
    haze = 0.25 * (1 - nearness)[..., None]
    rgb = rgb * (1 - haze) + haze * np.array([0.86, 0.89, 0.93])
    return np.concatenate([np.clip(rgb, 0, 1), hit[..., None].astype(float)], -1)


def principal_view(volumes: Sequence[Array], level: float) -> Float[np.ndarray, "3 3"]:
    """Rotation (object to view) that lays the region which any of the maps fills flat on the paper.

    The longest principal axis of that region goes to the right, the shortest towards the viewer: a molecule that bends
    in a plane is seen face on. A region about as long as it is wide and deep is left as it is.
    """
    filled = np.maximum.reduce([as_array(volume) for volume in volumes]) > level
    place = np.argwhere(filled)[:, ::-1].astype(np.float64)
    if len(place) < 4:
        return np.eye(3)
    lengths, axes = np.linalg.eigh(np.cov(place.T))
    if lengths[2] < 1.15 * lengths[0]:
        return np.eye(3)
    turn = axes.T[::-1]
    turn = turn * np.where(turn[np.arange(3), np.abs(turn).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    turn[2] *= np.sign(np.linalg.det(turn))
    return turn

"""The padded half spectra of several volumes side by side: one table of (voxels, real and imaginary part, volumes).

Only voxels that a slice can read are listed: the half ball x >= 0 around the origin, row by row. A slice of all volumes
costs hardly more index arithmetic than a slice of one, and its eight corners are eight runs of memory. Interpolation and
its compensation are those of `slices`.

On the CPU the compiled kernels of `compiled_table` do the work, on the GPU their torch twins in this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.numerics import compiled_table
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.slices import interpolation_falloff

# images whose corners the torch twins list at once
IMAGES_AT_ONCE = 64


@final
@dataclass(frozen=True)
class TableLayout:
    """Which voxels of a padded half spectrum a table lists.

    Attributes:
        band: highest shell of the slices. padding: how much finer the spectrum is sampled than an image's own.
        reach: rows (z, y) run from minus this to this. starts: where each row begins; a row holds x = 0, 1, ...
        count: number of voxels. z, y, x: the position of each.
    """

    band: int
    padding: int
    reach: int
    starts: Int[Tensor, "rows rows"]
    z: Int[Tensor, " voxels"]
    y: Int[Tensor, " voxels"]
    x: Int[Tensor, " voxels"]

    @property
    def count(self) -> int:
        """Number of voxels listed."""
        return self.x.shape[0]

    @property
    def shell(self) -> Float[Tensor, " voxels"]:
        """Radius of every voxel in shells of the image."""
        squared = (self.z**2 + self.y**2 + self.x**2).to(torch.float32)
        return squared.sqrt() / self.padding

    @cached_property
    def nearest_shell(self) -> Int[Tensor, " voxels"]:
        """The shell that every voxel belongs to."""
        return self.shell.round().to(torch.int64)

    @property
    def limit(self) -> float:
        """Radius, in voxels of the table, within which every point has its eight corners."""
        return self.padding * (self.band + 0.5)

    @property
    def axis_plane(self) -> tuple[Int[Tensor, " plane"], Int[Tensor, " plane"]]:
        """The voxels of the plane x = 0, and where the Friedel mate of each one stands."""
        own = torch.nonzero(self.x == 0)[:, 0]
        mates = self.starts[self.reach - self.z[own], self.reach - self.y[own]]
        return own, mates


@lru_cache(maxsize=16)
def table_layout(band: int, padding: int = 2, device: str = "cpu") -> TableLayout:
    """The half ball that slices out to shell ``band`` read, with the corners of their outermost points."""
    signed, length = _rows(band, padding)
    reach = int(signed[-1])
    ends = length.reshape(-1).cumsum(0)
    starts = (ends - length.reshape(-1)).reshape(length.shape)
    row = torch.repeat_interleave(torch.arange(length.numel()), length.reshape(-1))
    x = torch.arange(int(ends[-1])) - starts.reshape(-1)[row]
    z, y = signed[row // len(signed)], signed[row % len(signed)]
    place = torch.device(device)
    return TableLayout(band, padding, reach, starts.to(place), z.to(place), y.to(place), x.to(place))


def table_voxels(band: int, padding: int = 2) -> int:
    """How many voxels the layout of a band has, without making it: to plan memory."""
    return int(_rows(band, padding)[1].sum())


def _rows(band: int, padding: int) -> tuple[Int[Tensor, " side"], Int[Tensor, "side side"]]:
    """The z or y of each row, and how many voxels the row of every z and y has."""
    radius = padding * (band + 0.5) + math.sqrt(3) + 0.01  # a corner lies at most one diagonal beyond its point
    reach = math.ceil(radius)
    signed = torch.arange(-reach, reach + 1)
    room = radius**2 - (signed[:, None] ** 2 + signed**2).to(torch.float64)
    return signed, torch.where(room >= 0, room.clamp(min=0).sqrt().floor() + 1, 0).to(torch.int64)


Table = Float[Tensor, "voxels 2 volumes"]


def zero_table(layout: TableLayout, volumes: int, dtype: torch.dtype = torch.float32) -> Table:
    """A table of zeros where the layout is.

    Slices read all over a table. On the CPU numpy asks the system for large pages of memory, so that fewer addresses need
    looking up; torch does not.
    """
    shape = (layout.count, 2, volumes)
    if layout.x.device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=layout.x.device)
    return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def shell_means(values: Float[Tensor, "voxels *columns"], layout: TableLayout) -> Float[Tensor, "shells *columns"]:
    """Means over the listed voxels of each shell of the image."""
    shell = layout.nearest_shell
    count = torch.bincount(shell).to(values.dtype)
    sums = torch.zeros(len(count), *values.shape[1:], dtype=values.dtype, device=values.device)
    sums.index_add_(0, shell, values)
    return sums / count.reshape(-1, *[1] * (values.dim() - 1))


@dataclass(frozen=True)
class _Transform:
    """How a table lies in the `rfftn` of a padded box.

    Attributes:
        size: of the padded box. low: where the volume begins in it. kept: voxels of the table that the transform has.
        place: their positions in it, flattened. sign: moves the origin from index 0 to the centre of the padded box, which
            is even.
    """

    size: int
    low: int
    kept: Tensor
    place: Tensor
    sign: Tensor
    falloff: Tensor


@lru_cache(maxsize=8)
def _transform(band: int, padding: int, device: str, box_size: int, dtype: torch.dtype, edge: bool) -> _Transform:
    """The transform of a layout, with the Nyquist planes of the padded box if ``edge``."""
    layout = table_layout(band, padding, device)
    size = padding * box_size
    limit = size // 2 + edge
    inside = (layout.z.abs() < limit) & (layout.y.abs() < limit) & (layout.x < limit)
    kept = torch.nonzero(inside)[:, 0]
    flat = ((layout.z % size) * size + layout.y % size) * (size // 2 + 1) + layout.x
    odd = (layout.z + layout.y + layout.x) % 2
    sign = (1 - 2 * odd[kept]).to(dtype)
    falloff = interpolation_falloff(box_size, padding, torch.empty(0, dtype=dtype, device=device))
    return _Transform(size, size // 2 - box_size // 2, kept, flat[kept], sign, falloff)


def table_of_volumes(volumes: Float[Tensor, "volumes n n n"], layout: TableLayout) -> Table:
    """The table of real volumes, compensated for the interpolation to come."""
    n, device = volumes.shape[-1], str(volumes.device)
    how = _transform(layout.band, layout.padding, device, n, volumes.dtype, True)
    table = zero_table(layout, len(volumes), volumes.dtype)
    padded = torch.zeros((how.size,) * 3, dtype=volumes.dtype, device=volumes.device)
    inner = slice(how.low, how.low + n)
    for k, volume in enumerate(volumes):
        padded[inner, inner, inner] = volume / how.falloff
        spectrum = torch.view_as_real(torch.fft.rfftn(padded)).reshape(-1, 2)
        if table.device.type == "cpu":
            places = (how.place.numpy(), how.sign.numpy(), how.kept.numpy())
            compiled_table.put_volume(spectrum.numpy(), *places, k, table.numpy())
        else:
            table[how.kept, :, k] = spectrum[how.place] * how.sign[:, None]
    return table


def volumes_of_table(table: Table, layout: TableLayout, box_size: int) -> Float[Tensor, "volumes n n n"]:
    """Real volumes of a table of spectra: the inverse of `table_of_volumes` on volumes that fit the box."""
    how = _transform(layout.band, layout.padding, str(table.device), box_size, table.dtype, False)
    inner = slice(how.low, how.low + box_size)
    volumes = torch.empty(table.shape[2], *(box_size,) * 3, dtype=table.dtype, device=table.device)
    shape = (how.size, how.size, how.size // 2 + 1)
    spectrum = torch.zeros(math.prod(shape), 2, dtype=table.dtype, device=table.device)
    for k in range(table.shape[2]):
        if table.device.type == "cpu":
            places = (how.sign.numpy(), how.place.numpy())
            compiled_table.take_volume(table.numpy(), how.kept.numpy(), k, *places, spectrum.numpy())
        else:
            spectrum[how.place] = table[how.kept, :, k] * how.sign[:, None]
        volume = torch.fft.irfftn(torch.view_as_complex(spectrum).reshape(shape), s=(how.size,) * 3)
        volumes[k] = volume[inner, inner, inner] / how.falloff
    return volumes


def complete_axis_plane(table: Table, layout: TableLayout, *, hermitian: bool = True) -> None:
    """Give every voxel of the plane x = 0 what its Friedel mate received too, in place.

    Args:
        hermitian: the sums are of spectra, conjugate at the mate; weights are the same there.
    """
    own, mates = layout.axis_plane
    received = table[mates]
    if hermitian:
        received = received * torch.tensor([1.0, -1.0], dtype=table.dtype, device=table.device)[:, None]
    table[own] += received


def symmetrise_table(table: Table, layout: TableLayout, rotations: Float[Tensor, "operations 3 3"]) -> Table:
    """The sum over the rotations g of the table at g k. On a GPU the table travels to the CPU and back."""
    source = table.detach().cpu().contiguous()
    out = torch.zeros_like(source)
    z, y, x = layout.z.cpu().numpy(), layout.y.cpu().numpy(), layout.x.cpu().numpy()
    turns, starts = rotations.to(torch.float64).cpu().numpy(), layout.starts.cpu().numpy()
    compiled_table.symmetrise(source.numpy(), starts, layout.reach, layout.limit, turns, z, y, x, out.numpy())
    return out.to(table.device)


def gather_table(
    table: Table,
    layout: TableLayout,
    rotation: Float[Tensor, "batch 3 3"],
    plane: HalfPlane,
    factor: Float[Tensor, "batch coefficients"],
) -> Float[Tensor, "batch coefficients 2 volumes"]:
    """Slices of all volumes, times a factor for each coefficient (a transfer function)."""
    if table.device.type == "cpu":
        out = torch.empty(*factor.shape, 2, table.shape[2], dtype=table.dtype)
        x, y = (axis.to(table.dtype).numpy() for axis in (plane.x, plane.y))
        arguments = (rotation.contiguous().numpy(), x, y, float(layout.padding), factor.contiguous().numpy())
        compiled_table.gather(table.numpy(), layout.starts.numpy(), layout.reach, *arguments, out.numpy())
        return out
    parts: list[Tensor] = []
    for rows in torch.arange(len(rotation), device=table.device).split(IMAGES_AT_ONCE):
        index, weight, mirrored = table_corners(layout, rotation[rows], plane)
        value = (table[index] * weight[..., None, None]).sum(-3)
        parts.append(value * _signs(mirrored, factor[rows])[..., None])
    return torch.cat(parts)


def scatter_table(
    values: Float[Tensor, "batch coefficients 2 volumes"],
    layout: TableLayout,
    rotation: Float[Tensor, "batch 3 3"],
    plane: HalfPlane,
    factor: Float[Tensor, "batch coefficients"],
    table: Table,
) -> None:
    """Add slices times a factor into a table in place: the adjoint of `gather_table`."""
    if table.device.type == "cpu":
        x, y = (axis.to(table.dtype).numpy() for axis in (plane.x, plane.y))
        arguments = (rotation.contiguous().numpy(), x, y, float(layout.padding), factor.contiguous().numpy())
        compiled_table.scatter(
            values.contiguous().numpy(), layout.starts.numpy(), layout.reach, *arguments, table.numpy()
        )
        return
    for rows in torch.arange(len(rotation), device=table.device).split(IMAGES_AT_ONCE):
        index, weight, mirrored = table_corners(layout, rotation[rows], plane)
        signed = values[rows] * _signs(mirrored, factor[rows])[..., None]
        spread = signed[..., None, :, :] * weight[..., None, None]
        table.index_add_(0, index.reshape(-1), spread.reshape(-1, *table.shape[1:]))


def scatter_shares(
    values: Float[Tensor, "batch coefficients 2"],
    layout: TableLayout,
    rotation: Float[Tensor, "batch 3 3"],
    plane: HalfPlane,
    factor: Float[Tensor, "batch coefficients"],
    share: Float[Tensor, "batch tables 2"],
    sums: Float[Tensor, "tables voxels 2 2"],
) -> None:
    """Add images to several tables in place, each in the share that it has in them.

    Column 0 of a table receives ``share_0 factor values``, the real part of column 1 ``share_1 factor^2``: with a transfer
    function as the factor, the two sums of a weighted backprojection.
    """
    if sums.device.type == "cpu":
        x, y = (axis.to(sums.dtype).numpy() for axis in (plane.x, plane.y))
        where = (layout.starts.numpy(), layout.reach, rotation.contiguous().numpy(), x, y, float(layout.padding))
        given = (factor.contiguous().numpy(), share.contiguous().numpy())
        compiled_table.scatter_shares(values.contiguous().numpy(), *where, *given, sums.numpy())
        return
    for table, total in enumerate(sums):
        both = torch.zeros(*factor.shape, 2, 2, dtype=sums.dtype, device=sums.device)
        both[..., 0] = values * share[:, table, :1, None]
        both[:, :, 0, 1] = factor * share[:, table, 1:]
        scatter_table(both, layout, rotation, plane, factor, total)


def _signs(mirrored: Tensor, factor: Tensor) -> Tensor:
    return torch.stack((factor, torch.where(mirrored, -factor, factor)), dim=-1)


def table_corners(
    layout: TableLayout, rotation: Float[Tensor, "batch 3 3"], plane: HalfPlane
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the table (batch, coefficients, 8), weights of the same shape, and which points are read at their mate."""
    flat = torch.stack((plane.x, plane.y), dim=-1).to(rotation.dtype) * layout.padding
    points = flat @ rotation[:, :2, :]
    mirrored = points[..., 0] < 0
    points = torch.where(mirrored[..., None], -points, points)
    base = points.floor()
    fraction = points - base
    base = base.to(torch.int64)
    indices: list[Tensor] = []
    weights: list[Tensor] = []
    for corner in range(8):
        dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = torch.ones_like(fraction[..., 0])
        for axis, offset in enumerate((dx, dy, dz)):
            weight = weight * (fraction[..., axis] if offset else 1 - fraction[..., axis])
        row = layout.starts[base[..., 2] + dz + layout.reach, base[..., 1] + dy + layout.reach]
        indices.append(row + base[..., 0] + dx)
        weights.append(weight)
    return torch.stack(indices, -1), torch.stack(weights, -1), mirrored

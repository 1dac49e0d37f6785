"""Particle images as whitened half-plane coefficients: read once, cropped to the working band, kept in memory or on disk.

Where several processes work together, each reads and keeps the images of its share of both half-sets, and no others.

Images are centred with their shift, freed from beam tilt, and divided by the noise of their optics group shell by shell, so
that every coefficient has the same weight. They are sorted by half-set and by viewing direction: neighbours read and
write the same voxels of a table, which the processor's cache then holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.engine.processes import ALONE, Processes
from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.physics.grid import Grid

if TYPE_CHECKING:
    from frazil.data.stack import Particles

# images read and transformed at once
CHUNK = 256
# width of the bands of tilt that the sorted order runs through, degrees
TILT_BAND = 6.0


@final
class WhitenedImages:
    """Coefficients of all particles in working order.

    The first ``counts[0]`` images are half-set A, the others half-set B; ``order`` gives the row of the stack of each. All
    that is small is known of every image, coefficients only of those that are this process's `own`.

    Half precision is harmless: whitened values are around one, and rounding (1 part in 2000) is far below the noise.

    Args:
        particles: with poses and half-sets, all on one grid. band: highest shell kept.
        noise: power of a coefficient (optics groups, shells). sign: +1 if particles are bright in the images.
        file: where to keep the coefficients; in memory without it.
        processes: those that share the images. advance: told how many images are done.
    """

    def __init__(
        self,
        particles: Particles,
        band: int,
        noise: Float[Tensor, "groups shells"],
        *,
        sign: float,
        file: Path | None = None,
        processes: Processes = ALONE,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        assert particles.pose is not None and particles.half_set is not None
        self.grid: Grid = particles.grid
        self.plane: HalfPlane = self.grid.half_plane(band)
        self.order = working_order(particles.pose.rotation, particles.half_set)
        self.counts = (int((particles.half_set == 0).sum()), int((particles.half_set != 0).sum()))
        self.rotation = particles.pose.rotation[self.order].to(torch.float32).contiguous()
        self.optics = None if particles.optics is None else particles.optics[self.order]
        self.group = particles.group[self.order]
        self._stored_gain = self._gain = whitening(noise, self.plane)
        self.processes = processes
        kept = torch.cat([torch.arange(own.start, own.stop) for own in (self.own(0), self.own(1))])
        self._store = _Memory() if file is None else _File(file)
        self._store.make(len(kept), self.plane.count)
        place = torch.empty_like(self.order)
        place[self.order[kept]] = torch.arange(len(kept))
        for rows, images in particles.chunks(CHUNK, self.order[kept].sort().values):
            values = self._whiten(particles, rows, images * sign)
            self._store.write(place[rows], values.to(torch.float16))
            advance(len(rows))
        self._store.finish()

    @staticmethod
    def size(count: int, grid: Grid, band: int) -> int:
        """Bytes that the coefficients take."""
        return count * grid.half_plane(band).count * 4

    def __len__(self) -> int:
        return len(self.order)

    def _whiten(self, particles: Particles, rows: Tensor, images: Tensor) -> Float[Tensor, "rows coefficients 2"]:
        assert particles.pose is not None
        centred = images_to_coefficients(images, self.plane)
        centred = centred * particles.pose[rows].shift_phase(self.grid, self.plane).conj()
        if particles.optics is not None and particles.optics[rows].has_beam_tilt:
            optics = particles.optics[rows]
            tilted, plain = optics.transfer(self.grid, self.plane), optics.ctf(self.grid, self.plane)
            phase = torch.where(plain == 0, torch.ones_like(tilted), tilted / plain)
            centred = centred * phase.conj().to(centred.dtype)
        return torch.view_as_real(centred) * self._gain[particles.group[rows]][..., None]

    def half(self, which: int) -> range:
        """The images of a half-set."""
        return range(self.counts[0]) if which == 0 else range(self.counts[0], len(self))

    def own(self, which: int) -> range:
        """The images of a half-set that this process keeps."""
        return self.processes.share(self.half(which))

    def _place(self, image: int) -> int:
        """Where the coefficients of one of this process's images are stored."""
        a, b = self.own(0), self.own(1)
        return image - a.start if image < self.counts[0] else len(a) + image - b.start

    def set_noise(self, noise: Float[Tensor, "groups shells"]) -> None:
        """Whiten by another noise from here on; the stored values stay."""
        self._gain = whitening(noise, self.plane)

    def batch(
        self, first: int, last: int, count: int
    ) -> tuple[Float[Tensor, "batch coefficients 2"], Float[Tensor, "batch coefficients"]]:
        """Whitened images and transfer functions of neighbours that this process keeps, the first ``count`` coefficients."""
        place = self._place(first)
        return self._prepared(self._store.read(place, place + last - first), slice(first, last), count)

    def chosen(
        self, rows: Int[Tensor, " batch"], count: int
    ) -> tuple[Float[Tensor, "batch coefficients 2"], Float[Tensor, "batch coefficients"]]:
        """The same of any images that this process keeps, in the order asked for."""
        a, b = self.own(0), self.own(1)
        places = torch.where(rows < self.counts[0], rows - a.start, rows - b.start + len(a))
        return self._prepared(self._store.chosen(places, count), rows, count)

    def kept(self, rows: Int[Tensor, " images"], which: int) -> Bool[Tensor, " images"]:
        """Which of some images of a half-set this process keeps."""
        own = self.own(which)
        return (rows >= own.start) & (rows < own.stop)

    def _prepared(self, values: Tensor, rows: slice | Tensor, count: int) -> tuple[Tensor, Tensor]:
        values = values[:, :count].to(torch.float32)
        gain = self._gain[self.group[rows], :count]
        if self._gain is not self._stored_gain:
            stored = self._stored_gain[self.group[rows], :count]
            values = values * torch.where(stored > 0, gain / stored.clamp(min=1e-30), 0)[..., None]
        if self.optics is None:
            return values, gain
        plane = self.plane if count == self.plane.count else self.grid.half_plane(int(self.plane.shell[count - 1]))
        return values, self.optics[rows].ctf(self.grid, plane).to(torch.float32) * gain


def whitening(noise: Float[Tensor, "groups shells"], plane: HalfPlane) -> Float[Tensor, "groups coefficients"]:
    """What makes the exponent of the likelihood half a sum of squares: ``sqrt(2 / N)`` for a complex coefficient.

    The origin is left out: it carries the mean of the image, which normalisation has set.
    """
    power = noise[:, plane.shell.clamp(max=noise.shape[1] - 1)]
    return torch.where(plane.radius > 0, (2 / power.clamp(min=1e-30)).sqrt(), 0).to(torch.float32)


def working_order(rotation: Float[Tensor, "images 3 3"], half_set: Int[Tensor, " images"]) -> Int[Tensor, " images"]:
    """Rows sorted by half-set, then along a path that winds over the hemisphere of viewing directions."""
    direction = rotation[:, 2, :].to(torch.float64)
    direction = torch.where(direction[:, 2:] < 0, -direction, direction)
    tilt = torch.rad2deg(torch.arccos(direction[:, 2].clamp(-1, 1)))
    turn = torch.rad2deg(torch.atan2(direction[:, 1], direction[:, 0])) % 360
    band = (tilt / TILT_BAND).floor()
    turn = torch.where(band % 2 == 1, 360 - turn, turn)
    return torch.from_numpy(np.lexsort((turn.numpy(), band.numpy(), half_set.numpy())))


class _Memory:
    """Coefficients in an array."""

    def make(self, count: int, coefficients: int) -> None:
        self.values = torch.empty(count, coefficients, 2, dtype=torch.float16)

    def write(self, rows: Tensor, values: Tensor) -> None:
        self.values[rows] = values

    def finish(self) -> None:
        """Nothing is left to do."""

    def read(self, first: int, last: int) -> Tensor:
        return self.values[first:last]

    def chosen(self, rows: Tensor, count: int) -> Tensor:
        return self.values[rows, :count]


class _File:
    """Coefficients in a file that is read in runs, never mapped: mapped pages would count as memory of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, count: int, coefficients: int) -> None:
        self.shape = (coefficients, 2)
        self.row = coefficients * 2 * 2
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # scratch of this run, made anew by the next one: no need to write it beside its place
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.unlink(self.path)  # the space is given back however this process ends
        os.truncate(self.handle, count * self.row)

    def write(self, rows: Tensor, values: Tensor) -> None:
        for row, value in zip(rows.tolist(), values.numpy(), strict=True):
            os.pwrite(self.handle, value.tobytes(), row * self.row)

    def finish(self) -> None:
        """Nothing is left to do: the system writes when it likes."""

    def read(self, first: int, last: int) -> Tensor:
        data = bytearray((last - first) * self.row)
        os.preadv(self.handle, [data], first * self.row)
        return torch.frombuffer(data, dtype=torch.float16).reshape(last - first, *self.shape)

    def chosen(self, rows: Tensor, count: int) -> Tensor:
        values = torch.empty(len(rows), count, 2, dtype=torch.float16)
        for row, value in zip(rows.tolist(), values.numpy(), strict=True):
            os.preadv(self.handle, [value], row * self.row)
        return values

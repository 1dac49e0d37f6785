"""Particle images as whitened half-plane coefficients: read once, cropped to the working band, kept in memory or on disk.

Where several processes work together, each reads and keeps the images of its share of both half-sets, and no others.
Memory does not grow with the pixels of a stack on disk: what is read next is read while the present images are worked on.

Images are centred with their shift, freed from beam tilt, and divided by the noise of their optics group shell by shell, so
that every coefficient has the same weight. They are sorted by half-set and by viewing direction: neighbours read and
write the same voxels of a table, which the processor's cache then holds.
"""

from __future__ import annotations

import copy
import os
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from frazil.engine.machine import is_out_of_memory
from frazil.engine.processes import ALONE, Processes
from frazil.engine.read_ahead import read_ahead
from frazil.errors import InputError
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.fourier import HalfPlane, images_to_coefficients
from frazil.physics.grid import Grid

if TYPE_CHECKING:
    from frazil.data.stack import Particles

# images that a worker reads and transforms at once
CHUNK = 64
# bytes of slices that a worker holds at once: enough that operations last longer than they take to start, few enough to stay
# in the cache
SLICES_AT_ONCE = 6_000_000
# bytes of coefficients that a worker reads from disk at once: enough that the time to start is nothing
READ_AT_ONCE = 8_000_000
# bytes of a coefficient in the store
STORED = 4
# width of the bands of tilt that the sorted order runs through, degrees
TILT_BAND = 6.0


@final
class WhitenedImages:
    """Coefficients of all particles in working order.

    The first ``counts[0]`` images are half-set A, the others half-set B; ``order`` gives the row of the stack of each,
    ``views`` which of them show one particle. All that is small is known of every image, coefficients only of those that are
    this process's `own`.

    Half precision is harmless: whitened values are around one, and rounding (1 part in 2000) is far below the noise.

    Args:
        particles: with poses and half-sets, all on one grid. band: highest shell kept.
        noise: power of a coefficient (optics groups, shells). sign: +1 if particles are bright in the images.
        file: where to keep the coefficients; in memory without it. bands: lower ones that will be asked for often: a file
            is laid out so that each is read without what lies beyond it.
        processes: those that share the images. advance: told how many images are done. log: told what should be known.

    Raises:
        InputError: when an image cannot be read or is none, or the disk has too little room.
    """

    def __init__(
        self,
        particles: Particles,
        band: int,
        noise: Float[Tensor, "groups shells"],
        *,
        sign: float,
        file: Path | None = None,
        bands: Sequence[int] = (),
        processes: Processes = ALONE,
        advance: Callable[[int], None] = lambda count: None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        assert particles.pose is not None and particles.half_set is not None
        self.grid: Grid = particles.grid
        self.plane: HalfPlane = self.grid.half_plane(band)
        self.order = working_order(particles.pose.rotation, particles.half_set)
        self.counts = (int((particles.half_set == 0).sum()), int((particles.half_set != 0).sum()))
        self.rotation = particles.pose.rotation[self.order].to(torch.float32).contiguous()
        self.optics = None if particles.optics is None else particles.optics[self.order]
        self.group = particles.group[self.order]
        self.views = particles.views[self.order]
        self._stored_gain = self._gain = whitening(noise, self.plane)
        self.processes = processes
        self._own = processes.share(self.half(0)), processes.share(self.half(1))
        kept = torch.cat([torch.arange(own.start, own.stop) for own in self._own])
        # where the coefficients of each of this process's images are stored
        self._place = torch.full_like(self.order, -1)
        self._place[kept] = torch.arange(len(kept))
        self._log, self._slices_at_once = log, SLICES_AT_ONCE
        lower = {self.grid.half_plane(limit).count for limit in bands if limit < band}
        ends = (*sorted(lower), self.plane.count)
        self._store = _Memory(len(kept), self.plane.count) if file is None else _File(file, len(kept), ends)
        self._read(particles, self.order[kept], sign, advance)

    def _read(self, particles: Particles, order: Tensor, sign: float, advance: Callable[[int], None]) -> None:
        """Fill the store from the stack, once from its first image to its last; each chunk is one worker's."""
        place = torch.empty(len(self), dtype=torch.int64)
        place[order] = torch.arange(len(order))

        def keep(rows: Tensor, images: Tensor) -> int:
            values = self._whiten(particles, rows, images * sign)
            self._store.write(place[rows], values.to(torch.float16))
            return len(rows)

        with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
            kept: deque[Future[int]] = deque()
            for rows, images in read_ahead(particles.chunks(CHUNK, order.sort().values)):
                kept.append(pool.submit(keep, rows, images))
                if len(kept) > threads:
                    advance(kept.popleft().result())
            for chunk in kept:
                advance(chunk.result())

    @staticmethod
    def size(count: int, grid: Grid, band: int) -> int:
        """Bytes that the coefficients take."""
        return count * grid.half_plane(band).count * STORED

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

    @property
    def groups(self) -> int:
        """Number of optics groups of the stack; some may have no image here."""
        return len(self._gain)

    @property
    def gain(self) -> Float[Tensor, "groups coefficients"]:
        """What coefficients are multiplied by to whiten them."""
        return self._gain

    def half(self, which: int) -> range:
        """The images of a half-set."""
        return range(self.counts[0]) if which == 0 else range(self.counts[0], len(self))

    def own(self, which: int) -> range:
        """The images of a half-set that this process keeps."""
        return self._own[which]

    def subset(self, chosen: Bool[Tensor, " images"]) -> WhitenedImages:
        """Some of the images, in the same order: their coefficients stay where they are, and with them who keeps them."""
        part = copy.copy(self)
        part.order, part.rotation, part.group = self.order[chosen], self.rotation[chosen], self.group[chosen]
        part.optics = None if self.optics is None else self.optics[chosen]
        part.views = self.views[chosen]
        part._place = self._place[chosen]
        before = torch.cat((torch.zeros(1, dtype=torch.int64), chosen.cumsum(0))).tolist()
        part.counts = before[self.counts[0]], before[-1] - before[self.counts[0]]
        a, b = self._own
        part._own = range(before[a.start], before[a.stop]), range(before[b.start], before[b.stop])
        return part

    def alone(self) -> WhitenedImages:
        """The same images as if there were no others in the stack: ``order`` counts these alone."""
        part = copy.copy(self)
        part.order = torch.argsort(torch.argsort(self.order))
        return part

    def set_noise(self, noise: Float[Tensor, "groups shells"]) -> None:
        """Whiten by another noise from here on; the stored values stay."""
        self._gain = whitening(noise, self.plane)

    def at_once(self, count: int, volumes: int) -> int:
        """How many images to look at together when ``count`` coefficients of slices of so many volumes are made of each."""
        return max(1, self._slices_at_once // (count * volumes * 8))

    def each(
        self,
        rows: range,
        count: int,
        volumes: int,
        work: Callable[
            [slice, Float[Tensor, "batch coefficients 2"], Float[Tensor, "batch coefficients"]],
            None,
        ],
    ) -> None:
        """Work on neighbours that this process keeps, a few at once: their rows, whitened values and transfer functions.

        Where memory is out, half as many are taken from there on. So work that fails must leave everything as it was.
        Without any images there is one batch of none: what the work finds then has the right shapes.

        Args:
            count: of the coefficients looked at, lowest frequencies first. volumes: whose slices the work makes.
        """
        if len(rows) == 0:
            none = torch.zeros(0, dtype=torch.int64)
            work(slice(rows.start, rows.start), *self.chosen(none, count))
        size = self.at_once(count, volumes)
        for run, stored in self._runs(rows, count, size):
            done = 0
            while done < len(run):
                some = slice(run[done], min(run[done] + size, run.stop))
                try:
                    work(some, *self._prepared(stored[done : done + size], some, count))
                except (MemoryError, RuntimeError) as error:
                    tried = some.stop - some.start
                    if not is_out_of_memory(error) or tried == 1:
                        raise
                    size = self._halved(tried, count * volumes * 8)
                else:
                    done += size

    def _runs(self, rows: range, count: int, size: int) -> Iterator[tuple[range, Tensor]]:
        """Stretches of neighbours, whole batches of a size, as they are stored."""
        pieces = [rows]
        if isinstance(self._store, _File):
            length = size * max(1, READ_AT_ONCE // (size * count * STORED))
            pieces = [rows[first : first + length] for first in range(0, len(rows), length)]
        stored = ((piece, self._stored(piece, count)) for piece in pieces if len(piece))
        return read_ahead(stored) if isinstance(self._store, _File) else stored

    def _stored(self, rows: range, count: int) -> Tensor:
        places = self._place[rows.start : rows.stop]
        first, last = int(places[0]), int(places[-1])
        if last - first == len(rows) - 1:  # in one run
            return self._store.read(first, last + 1, count)
        return self._store.chosen(places, count)

    def _halved(self, size: int, slices: int) -> int:
        """Half as many images at once, here and in all that follows. ``slices``: bytes of an image's slices."""
        if self._slices_at_once == SLICES_AT_ONCE:
            self._log(f"out of memory with {size} images at once: going on with fewer")
        self._slices_at_once = min(self._slices_at_once, size // 2 * slices)
        return size // 2

    def transfer(self, rows: slice | Tensor, count: int) -> Float[Tensor, "batch coefficients"]:
        """Whitened transfer functions of any images, the first ``count`` coefficients."""
        gain = self._gain[self.group[rows], :count]
        if self.optics is None:
            return gain
        plane = self.plane if count == self.plane.count else self.grid.half_plane(int(self.plane.shell[count - 1]))
        return self.optics[rows].ctf(self.grid, plane).to(torch.float32) * gain

    def chosen(
        self, rows: Int[Tensor, " batch"], count: int
    ) -> tuple[Float[Tensor, "batch coefficients 2"], Float[Tensor, "batch coefficients"]]:
        """Whitened values and transfer functions of any images that this process keeps, in the order asked for."""
        return self._prepared(self._store.chosen(self._place[rows], count), rows, count)

    def kept(self, rows: Int[Tensor, " images"], which: int) -> Bool[Tensor, " images"]:
        """Which of some images of a half-set this process keeps."""
        own = self.own(which)
        return (rows >= own.start) & (rows < own.stop)

    def _prepared(self, values: Tensor, rows: slice | Tensor, count: int) -> tuple[Tensor, Tensor]:
        values = values.to(torch.float32)
        if self._gain is not self._stored_gain:
            group = self.group[rows]
            gain, stored = self._gain[group, :count], self._stored_gain[group, :count]
            values = values * torch.where(stored > 0, gain / stored.clamp(min=1e-30), 0)[..., None]
        return values, self.transfer(rows, count)


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


@final
class _Memory:
    """Coefficients in an array."""

    def __init__(self, count: int, coefficients: int) -> None:
        self.values = torch.empty(count, coefficients, 2, dtype=torch.float16)

    def write(self, rows: Tensor, values: Tensor) -> None:
        self.values[rows] = values

    def read(self, first: int, last: int, count: int) -> Tensor:
        return self.values[first:last, :count]

    def chosen(self, rows: Tensor, count: int) -> Tensor:
        return self.values[rows, :count]


@final
class _File:
    """Coefficients in a file that is read in runs, never mapped: mapped pages would count as memory of this process.

    Parts follow one another: the coefficients of all images within the first band, then what the second adds to it, and so
    on. A low band is a stretch of the file.

    Args:
        ends: how many coefficients each band has, the last one all.

    Raises:
        InputError: when the disk has too little room.
    """

    def __init__(self, path: Path, count: int, ends: Sequence[int]) -> None:
        self.count, self.parts = count, tuple(pairwise((0, *ends)))
        path.parent.mkdir(parents=True, exist_ok=True)
        size, free = count * ends[-1] * STORED, shutil.disk_usage(path.parent).free
        if size > free:
            raise InputError(
                f"the images' coefficients take {size / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free",
                where=path.parent,
                remedy="free some space, keep them with --basis.cache memory, or ask for less with --basis.resolution",
            )
        # scratch of this run, made anew by the next one: no need to write it beside its place
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.unlink(path)  # the space is given back however this process ends
        weakref.finalize(self, os.close, self.handle)
        os.truncate(self.handle, size)

    def write(self, rows: Tensor, values: Tensor) -> None:
        order = rows.argsort()
        sorted_values = values[order].numpy()
        for start, end in self.parts:
            part = np.ascontiguousarray(sorted_values[:, start:end])
            for row, run in _runs_of(rows[order].numpy()):
                _transfer(os.pwritev, self.handle, part[run], self._offset(start, end, row))

    def read(self, first: int, last: int, count: int) -> Tensor:
        return self.chosen(torch.arange(first, last), count)

    def chosen(self, rows: Tensor, count: int) -> Tensor:
        values = np.empty((len(rows), count, 2), np.float16)
        runs = _runs_of(rows.numpy())
        for start, end in self.parts:
            if start >= count:
                break
            part = np.empty((len(rows), end - start, 2), np.float16)
            for row, run in runs:
                _transfer(os.preadv, self.handle, part[run], self._offset(start, end, row))
            values[:, start:end] = part[:, : count - start]
        return torch.from_numpy(values)

    def _offset(self, start: int, end: int, row: int) -> int:
        """Where in the file the coefficients of an image from ``start`` to ``end`` begin."""
        return (self.count * start + row * (end - start)) * STORED


def _runs_of(rows: np.ndarray) -> list[tuple[int, slice]]:
    """Stretches of consecutive numbers: the first of each, and which they are."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return [(int(rows[first]), slice(first, last)) for first, last in pairwise(edges) if last > first]


def _transfer(move: Callable[[int, list[memoryview], int], int], handle: int, values: np.ndarray, offset: int) -> None:
    """Read or write the whole of an array; the system may do it in pieces."""
    view = values.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        moved = move(handle, [view[done:]], offset + done)
        if moved == 0:
            raise OSError("the file of coefficients became shorter while it was used")
        done += moved

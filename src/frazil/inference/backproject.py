"""Weighted backprojection: images with known poses and optics to the maximum-likelihood density.

Every coefficient of every image is divided by the noise and multiplied by its transfer function, then added to the
padded spectrum where its slice lies; the squared transfer functions are added beside. Their quotient is the map
(`HalfMap.volume`):

    V(k) = sum_i w_i conj(T_i) F_i / sum_i w_i |T_i|^2

w_i is one over the power of the noise, times a weight of the image where one is given. Weights that fall with the
distance of an image's latent from a chosen one make V the density of that conformation: the kernel regression of Nadaraya
and Watson (1964), with images in the place of values.

How far a map can be believed in each shell is for its two halves to say. (Solving the least-squares problem on the padded
grid by conjugate gradients instead of dividing was tried: it moves the FSC to the truth by 0.05 shells.)

Images of other box or pixel sizes are added at their own frequencies: a coefficient knows its spatial frequency, so no
image is ever resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from frazil.inference import backproject_compiled as compiled
from frazil.inference.half_map import PADDING, HalfMap
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.fourier import images_to_coefficients
from frazil.numerics.slices import scatter_slices
from frazil.physics.grid import Grid
from frazil.physics.noise import Noise
from frazil.physics.optics import ANGSTROM_PER_MILLIMETRE, Optics
from frazil.physics.pose import Pose

NOISE_SAMPLE = 200


class ImageSource(Protocol):
    """What is asked of a particle stack (`data.stack.Particles` is one): poses, optics, half-sets and the images."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grid of every optics group."""
        ...

    @property
    def group(self) -> Int64[Tensor, " particles"]:
        """The optics group of every particle."""
        ...

    @property
    def pose(self) -> Pose | None: ...

    @property
    def optics(self) -> Optics | None: ...

    @property
    def half_set(self) -> Int64[Tensor, " particles"] | None:
        """0 or 1 for every particle."""
        ...

    def images(self, rows: Tensor) -> Float[Tensor, "rows n n"]:
        """The images of some rows, all of one box."""
        ...

    def chunks(self, size: int, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Float[Tensor, "rows n n"]]]:
        """(rows, images), at most `size` at a time; all rows, or those given."""
        ...


def imaging_parameters(
    optics: Optics | None,
    pose: Pose,
    grid: Grid,
    reference: Grid,
    padding: int,
    group: Int[Tensor, " images"] | int,
    weight: Float[Tensor, " images"] | None = None,
) -> Float[np.ndarray, "images parameters"]:
    """The table that `compiled.insert_images` reads: what it must know of each image for a map on ``reference``.

    Args:
        group: the row of the noise weights that belongs to an image. weight: multiplies its noise weight; None is 1.
    """
    count = pose.rotation.shape[0]
    table = np.zeros((count, compiled.PARAMETERS))
    step = grid.frequency_step
    if optics is None:
        table[:, compiled.PHASE_CONSTANT] = 0.25  # a quarter turn: the CTF is 1
    else:
        turns = optics.to(torch.float64).phase_polynomial().numpy() / (2 * np.pi)
        table[:, :5] = turns * np.array([step**2, step**2, step**2, step**4, 1.0])
        table[:, compiled.ENVELOPE] = optics.b_factor.numpy() * step**2 / 4
        strength = (optics.cs * ANGSTROM_PER_MILLIMETRE * optics.wavelength**2 * step**3 * 1e-3).numpy()
        table[:, compiled.TILT_X] = strength * optics.beam_tilt_x.numpy()
        table[:, compiled.TILT_Y] = strength * optics.beam_tilt_y.numpy()
    centre = (grid.box_size // 2 + pose.shift.to(torch.float64).numpy() / grid.pixel_size) / grid.box_size
    table[:, compiled.CENTRE_X], table[:, compiled.CENTRE_Y] = centre[:, 0], centre[:, 1]
    table[:, compiled.SCALE] = padding * reference.extent / grid.extent
    table[:, compiled.GROUP] = group if isinstance(group, int) else group.numpy()
    table[:, compiled.WEIGHT] = 1 if weight is None else weight.numpy()
    return table


def insert_by_parts(
    images: Float[Tensor, "images n n"],
    pose: Pose,
    optics: Optics | None,
    grid: Grid,
    weight: Float[Tensor, "#images coefficients"],
    half: HalfMap,
) -> None:
    """The torch twin of `compiled.insert_images`, composed of the parts of the model, for any device; adds in place."""
    layout = grid.half_plane(device=str(images.device))
    centred = images_to_coefficients(images, layout) * pose.shift_phase(grid, layout).conj()
    transfer: Tensor = torch.ones_like(centred) if optics is None else optics.transfer(grid, layout).to(centred)
    scale = half.padding * half.grid.extent / grid.extent
    for part, values in enumerate((centred * transfer.conj() * weight, (transfer.abs().square() * weight).to(centred))):
        target = torch.zeros(half.sums.shape[:3], dtype=centred.dtype, device=images.device)
        scatter_slices(values, pose.rotation, layout, scale, target)
        if part == 0:
            half.sums[..., 0] += target.real
            half.sums[..., 1] += target.imag
        else:
            half.sums[..., 2] += target.real


def noise_weights(particles: ImageSource, reference: Grid) -> Float[np.ndarray, "groups shells"]:
    """One over the noise power of each optics group in each shell, relative to the largest.

    A single image is almost all noise: the mean spectrum of a sample of whole images stands for the noise.
    """
    shells = max(grid.box_size for grid in particles.grids) // 2 + 2
    weights = np.ones((len(particles.grids), shells), dtype=np.float32)
    for group, grid in enumerate(particles.grids):
        rows = torch.nonzero(particles.group == group)[:, 0]
        if len(rows) == 0:
            continue
        sample = rows[torch.linspace(0, len(rows) - 1, min(NOISE_SAMPLE, len(rows))).round().to(torch.int64)]
        power = Noise.measured(particles.images(sample)).power * (grid.pixel_size / reference.pixel_size) ** 2
        # shell 0 is the mean of the image, which normalisation took away
        power[0] = power[1]
        spectrum = 1 / power.clamp(min=1e-20).numpy()
        weights[group, : len(spectrum)] = spectrum
        weights[group, len(spectrum) :] = spectrum[-1]
    return weights / weights.max()


def backproject(
    particles: ImageSource,
    reference: Grid,
    symmetry: str = "C1",
    weight: Float[Tensor, " particles"] | None = None,
    noise: Float[np.ndarray, "groups shells"] | None = None,
    scale: Float[Tensor, " particles"] | None = None,
    chunk: int = 256,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[HalfMap, HalfMap]:
    """Backproject both half-sets of a stack: one thread for each half, and one that reads ahead.

    Args:
        reference: the grid of the map. symmetry: point group whose mates are added.
        weight: of each image, not negative; None is 1 for all. An image of weight 0 is not read.
        noise: `noise_weights` of the stack, where they are at hand; None measures them.
        scale: how strong each particle is in its image, above 0; None is 1 for all.
        advance: called with the number of images done.

    Raises:
        InputError: if an image holds a value that is not a number.
        ValueError: if the stack has no poses or half-sets, or a weight is negative or not a number.
    """
    pose, half_set = particles.pose, particles.half_set
    if pose is None or half_set is None:
        raise ValueError("backprojection needs poses and half-sets")
    if weight is not None and not bool((weight >= 0).all()):
        raise ValueError("weights of images are 0 or more")
    halves = (HalfMap.empty(reference), HalfMap.empty(reference))
    noise = noise_weights(particles, reference) if noise is None else noise
    jobs: list[Future[None]] = []
    with ThreadPoolExecutor(2) as pool, one_thread_per_operation():
        for rows, images, grid, group in _chunks_by_group(particles, chunk, weight):
            spectra = torch.fft.rfft2(images)
            if grid.pixel_size != reference.pixel_size:
                # images carry noise of unit variance whatever their pixel: signal scales with the pixel size
                spectra *= grid.pixel_size / reference.pixel_size
            optics = None if particles.optics is None else particles.optics[rows]
            share = None if weight is None else weight[rows]
            if scale is not None:
                # an image of a particle that is a times as strong is an image of strength one with 1/a^2 of the noise
                strength = scale[rows].to(torch.float32)
                spectra /= strength[:, None, None]
                share = strength.square() if share is None else share * strength.square()
            table = imaging_parameters(optics, pose[rows], grid, reference, PADDING, group, share)
            rotation = pose.rotation[rows].to(torch.float32).numpy()
            part_of = half_set[rows].numpy()
            # the last chunk was added while this one was read
            for job in jobs:
                job.result()
            jobs = [
                pool.submit(
                    compiled.insert_images, spectra.numpy(), np.flatnonzero(part_of == part), rotation, table, noise,
                    grid.last_shell, half.sums.numpy(),
                )
                for part, half in enumerate(halves)
            ]  # fmt: skip
            advance(len(rows))
        for job in jobs:
            job.result()
    return halves[0].completed(symmetry), halves[1].completed(symmetry)


def _chunks_by_group(
    particles: ImageSource, chunk: int, weight: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Grid, int]]:
    for group, grid in enumerate(particles.grids):
        wanted = particles.group == group if weight is None else (particles.group == group) & (weight > 0)
        members = None if bool(wanted.all()) else torch.nonzero(wanted)[:, 0]
        if members is not None and len(members) == 0:
            continue
        for rows, images in particles.chunks(chunk, members):
            yield rows, images, grid, group

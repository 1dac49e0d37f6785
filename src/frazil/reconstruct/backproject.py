"""Weighted backprojection: images with known poses and optics to the maximum-likelihood density.

Every coefficient of every image is divided by the noise and multiplied by its transfer function, then added to the
padded spectrum where its slice lies; the squared transfer functions are added beside. Their quotient is the map
(`HalfMap.volume`):

    V(k) = sum_i w_i conj(T_i) F_i / sum_i w_i |T_i|^2

How far it can be believed in each shell is for the two halves to say: `maps.py`. (Solving the least-squares problem on
the padded grid by conjugate gradients instead of dividing was tried: it moves the FSC to the truth by 0.05 shells.)

Images of other box or pixel sizes are added at their own frequencies: a coefficient knows its spatial frequency, so no
image is ever resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from frazil.data.stack import Particles
from frazil.numerics.fourier import images_to_coefficients
from frazil.numerics.masks import soft_sphere
from frazil.numerics.slices import interpolation_falloff, scatter_slices, spectrum_shape
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid
from frazil.physics.noise import Noise
from frazil.physics.optics import ANGSTROM_PER_MILLIMETRE, Optics
from frazil.physics.pose import Pose
from frazil.reconstruct import compiled

PADDING = 2
# every point's weight is raised by this share of its shell's mean, so that points few images reached stay quiet.
# Against the noise-free truth 0.1 to 0.5 are equally good; the least disturbs the map of noise-free images least.
EVEN_WEIGHT = 0.1
NOISE_SAMPLE = 200
# width of the soft edge of the sphere that holds the map, voxels
SPHERE_EDGE = 3.0


@final
@dataclass(frozen=True)
class HalfMap:
    """The sums of backprojection for one half of the particles.

    Attributes:
        sums: (z, y, x, 3) on the padded half spectrum: real and imaginary numerator, weight.
        grid: the grid of the map. padding: how much finer the spectrum is sampled.
    """

    sums: Float[Tensor, "z y x 3"]
    grid: Grid
    padding: int = PADDING

    @staticmethod
    def empty(grid: Grid, padding: int = PADDING) -> HalfMap:
        """Sums of no image."""
        shape = spectrum_shape(grid.last_shell, padding)
        return HalfMap(torch.zeros(*shape, 3), grid, padding)

    @staticmethod
    def memory(grid: Grid, padding: int = PADDING) -> int:
        """Bytes that one set of sums takes."""
        return int(np.prod(spectrum_shape(grid.last_shell, padding))) * 3 * 4

    def __add__(self, other: HalfMap) -> HalfMap:
        return HalfMap(self.sums + other.sums, self.grid, self.padding)

    def completed(self, symmetry: str) -> HalfMap:
        """The sums with every coefficient's Friedel mate and every symmetry-related coefficient added."""
        sums = self.sums.clone()
        compiled.complete_axis_plane(sums.numpy())
        rotations = point_group(symmetry)
        if len(rotations) == 1:
            return HalfMap(sums, self.grid, self.padding)
        out = sums.clone()
        compiled.symmetrise(sums.numpy(), rotations[1:].numpy(), out.numpy())
        return HalfMap(out, self.grid, self.padding)

    def shell_weight(self) -> tuple[Float[Tensor, " shells"], Int[Tensor, "z y x"]]:
        """Mean weight in each shell of the map, and the shell of every point of the padded spectrum."""
        reach = self.sums.shape[2] - 1
        signed = torch.arange(-reach, reach + 1, dtype=torch.float32)
        squared = signed[:, None, None] ** 2 + signed[:, None] ** 2 + torch.arange(reach + 1.0) ** 2
        shell = (squared.sqrt() / self.padding).round().to(torch.int64)
        flat = shell.reshape(-1)
        total = torch.zeros(int(shell.max()) + 1, dtype=torch.float64)
        total.index_add_(0, flat, self.sums[..., 2].reshape(-1).to(torch.float64))
        mean = total / torch.bincount(flat).clamp(min=1)
        return mean.to(torch.float32)[: self.grid.last_shell + 1], shell

    def volume(self) -> Float[Tensor, "n n n"]:
        """The unfiltered map: numerator over weight, back in real space, corrected for the interpolation.

        Every point's weight is raised by `EVEN_WEIGHT` of its shell's mean; the scale of the map stays what it is.
        """
        weight, shell = self.shell_weight()
        inside = shell < weight.shape[0]
        mean = weight[shell.clamp(max=weight.shape[0] - 1)]
        denominator = (self.sums[..., 2] + EVEN_WEIGHT * mean) / (1 + EVEN_WEIGHT)
        tiny = torch.finfo(torch.float32).tiny
        share = torch.where(inside & (denominator > tiny), 1 / denominator.clamp(min=tiny), 0)
        return self._to_real_space(torch.view_as_complex(self.sums[..., :2].contiguous()) * share)

    def _to_real_space(self, quotient: Complex[Tensor, "z y x"]) -> Float[Tensor, "n n n"]:
        n = self.grid.box_size
        size, reach = self.padding * n, quotient.shape[2] - 1
        width = size // 2 + 1
        kept = min(reach, width - 1, (size - 1) // 2)
        signed = torch.arange(-kept, kept + 1)
        full = torch.zeros(size, size, width, dtype=quotient.dtype)
        rows = (signed % size)[:, None]
        inner = slice(reach - kept, reach + kept + 1)
        full[rows, signed % size, : kept + 1] = quotient[inner, inner, : kept + 1]
        volume = torch.fft.fftshift(torch.fft.irfftn(full, s=(size,) * 3))
        low = size // 2 - n // 2
        cut = volume[low : low + n, low : low + n, low : low + n]
        # beyond the inscribed sphere no map is seen from all sides: there is only noise
        return cut / interpolation_falloff(n, self.padding, cut) * soft_sphere(n, n / 2, SPHERE_EDGE)


def imaging_parameters(
    optics: Optics | None, pose: Pose, grid: Grid, reference: Grid, padding: int, group: Int[Tensor, " images"] | int
) -> Float[np.ndarray, "images parameters"]:
    """The table that `compiled.insert_images` reads: optics, shift and scale of images for a map on ``reference``."""
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
    table[:, compiled.GAIN] = group if isinstance(group, int) else group.numpy()
    return table


def insert_by_parts(
    images: Float[Tensor, "images n n"],
    pose: Pose,
    optics: Optics | None,
    grid: Grid,
    weight: Float[Tensor, " coefficients"],
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


def noise_weights(particles: Particles, reference: Grid) -> Float[np.ndarray, "groups shells"]:
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
    particles: Particles,
    reference: Grid,
    symmetry: str,
    chunk: int = 256,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[HalfMap, HalfMap]:
    """Backproject both half-sets of a stack, one thread for each half.

    Raises:
        InputError: if an image holds a value that is not a number.
    """
    pose = particles.pose
    assert pose is not None and particles.half_set is not None
    halves = (HalfMap.empty(reference), HalfMap.empty(reference))
    weights = noise_weights(particles, reference)
    with ThreadPoolExecutor(2) as pool:
        for rows, images, grid, group in _chunks_by_group(particles, chunk):
            spectra = torch.fft.rfft2(images).numpy()
            # images carry noise of unit variance whatever their pixel: signal scales with the pixel size
            scale = grid.pixel_size / reference.pixel_size
            optics = None if particles.optics is None else particles.optics[rows]
            table = imaging_parameters(optics, pose[rows], grid, reference, PADDING, group)
            rotation = pose.rotation[rows].to(torch.float32).numpy()
            half_set = particles.half_set[rows].numpy()
            spectra *= np.float32(scale)
            jobs = []
            for part, half in enumerate(halves):
                mine = half_set == part
                chosen = (spectra[mine], rotation[mine], table[mine])
                jobs.append(pool.submit(compiled.insert_images, *chosen, weights, grid.last_shell, half.sums.numpy()))
            for job in jobs:
                job.result()
            advance(len(rows))
    return halves[0].completed(symmetry), halves[1].completed(symmetry)


def _chunks_by_group(particles: Particles, chunk: int) -> Iterator[tuple[Tensor, Tensor, Grid, int]]:
    for group, grid in enumerate(particles.grids):
        members = None if len(particles.grids) == 1 else torch.nonzero(particles.group == group)[:, 0]
        if members is not None and len(members) == 0:
            continue
        for rows, images in particles.chunks(chunk, members):
            yield rows, images, grid, group

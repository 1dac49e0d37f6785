"""The sums of weighted backprojection for one half of the particles, and the map that is their quotient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from frazil.inference import backproject_compiled as compiled
from frazil.numerics.masks import soft_sphere
from frazil.numerics.slices import interpolation_falloff, spectrum_shape
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid

PADDING = 2
# every point's weight is raised by this share of its shell's mean, so that points few images reached stay quiet.
# Against the noise-free truth 0.1 to 0.5 are equally good; the least disturbs the map of noise-free images least.
EVEN_WEIGHT = 0.1
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
        # NumPy asks for huge pages, torch does not: points scattered over the sums would miss the page table again and again
        return HalfMap(torch.from_numpy(np.zeros((*shape, 3), np.float32)), grid, padding)

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

    def _shells(self, z: int) -> Int[Tensor, "y x"]:
        """The shell of the map of every point in one plane of the spectrum."""
        reach = self.sums.shape[2] - 1
        signed = torch.arange(-reach, reach + 1, dtype=torch.float32)
        squared = signed[z] ** 2 + signed[:, None] ** 2 + torch.arange(reach + 1.0) ** 2
        return (squared.sqrt() / self.padding).round().to(torch.int64)

    def shell_weight(self) -> Float[Tensor, " shells"]:
        """Mean weight in each shell of the map."""
        last = int(self._shells(0).max())
        total, count = torch.zeros(last + 1, dtype=torch.float64), torch.zeros(last + 1, dtype=torch.int64)
        for z, plane in enumerate(self.sums):
            shell = self._shells(z).reshape(-1)
            total.index_add_(0, shell, plane[..., 2].reshape(-1).to(torch.float64))
            count += torch.bincount(shell, minlength=last + 1)
        return (total / count.clamp(min=1)).to(torch.float32)[: self.grid.last_shell + 1]

    def volume(self, ratio: Float[Tensor, " shells"] | None = None) -> Float[Tensor, "n n n"]:
        """The map: numerator over weight, back in real space, corrected for the interpolation.

        Unfiltered, every point's weight is raised by `EVEN_WEIGHT` of its shell's mean; the scale of the map stays what
        it is. With a ratio it is raised by the shell's mean over the ratio, and the map is Wiener filtered.

        Args:
            ratio: power of the signal to that of the noise in each shell.
        """
        n, reach = self.grid.box_size, self.sums.shape[2] - 1
        size = self.padding * n
        width = size // 2 + 1
        kept = min(reach, width - 1, (size - 1) // 2)
        weight = self.shell_weight()
        precise = weight.dtype if ratio is None else ratio.dtype
        full = torch.zeros(size, size, width, dtype=torch.promote_types(torch.complex64, precise))
        rows = torch.arange(-kept, kept + 1) % size
        # plane by plane: whole spectra of what is between the sums and the quotient would take most of the memory
        for z in range(-kept, kept + 1):
            quotient = self._quotient(reach + z, weight, ratio)
            full[z % size, rows, : kept + 1] = quotient[reach - kept : reach + kept + 1, : kept + 1]
        volume = torch.fft.irfftn(full, s=(size,) * 3)
        inside = torch.arange(-(n // 2), n - n // 2) % size
        cut = volume[inside[:, None, None], inside[:, None], inside]
        # beyond the inscribed sphere no map is seen from all sides: there is only noise
        return cut / interpolation_falloff(n, self.padding, cut) * soft_sphere(n, n / 2, SPHERE_EDGE)

    def _quotient(
        self, z: int, weight: Float[Tensor, " shells"], ratio: Float[Tensor, " shells"] | None
    ) -> Complex[Tensor, "y x"]:
        """Numerator over weight in one plane of the spectrum: see `volume`."""
        shell, own = self._shells(z), self.sums[z]
        inside = shell < weight.shape[0]
        shell = shell.clamp(max=weight.shape[0] - 1)
        mean = weight[shell]
        if ratio is None:
            denominator = (own[..., 2] + EVEN_WEIGHT * mean) / (1 + EVEN_WEIGHT)
        else:
            denominator = own[..., 2] + mean / ratio[shell]
        tiny = torch.finfo(torch.float32).tiny
        share = torch.where(inside & (denominator > tiny), 1 / denominator.clamp(min=tiny), 0)
        return torch.view_as_complex(own[..., :2].contiguous()) * share

"""The diameter of particles, found in their images: where these cease to vary more than their surroundings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.stack import Particles
from frazil.numerics.fourier import coefficients_to_images, images_to_coefficients

# images looked at
SAMPLE = 2000
CHUNK = 256
# finest detail looked at, Å
DETAIL = 25.0
# where the excess of the variance has fallen to this share of its peak
RIM = 0.1
# what is added to the diameter of the strong density
MARGIN = 1.1
# of the largest mean power of the transfer functions, what is added to it before it is divided by
LEAST_TRANSFER = 0.1


def found_diameter(particles: Particles) -> float:
    """Diameter in Å, from the variance of the smoothed images at each distance from the centre.

    The transfer functions are taken off first, so that particles are not smeared over their surroundings.
    """
    grid = particles.grid
    layout = grid.half_plane(min(grid.last_shell, max(3, int(grid.shell_of(DETAIL)))))
    rows = torch.linspace(0, particles.count - 1, min(particles.count, SAMPLE)).long()
    gain = torch.ones(layout.count)
    if particles.optics is not None:
        power = particles.optics[rows].ctf(grid, layout).float().square().mean(dim=0)
        gain = 1 / (power + LEAST_TRANSFER * power.max())
    gain[layout.shell < 2] = 0
    squares = torch.zeros(grid.box_size, grid.box_size, dtype=torch.float64)
    for chosen, images in particles.chunks(CHUNK, rows):
        found = images_to_coefficients(images, layout)
        if particles.optics is not None:
            found = found * particles.optics[chosen].ctf(grid, layout).float()
        smooth = coefficients_to_images(found * gain, layout)
        squares += smooth.square().sum(dim=0)
    return rim(radial_mean(squares / len(rows)), grid.pixel_size)


def radial_mean(image: Float[Tensor, "n n"]) -> Float[Tensor, " radii"]:
    """Mean over each ring around the centre, out to the edge."""
    n = image.shape[-1]
    axis = torch.arange(n) - n // 2
    ring = torch.hypot(axis.double()[:, None], axis.double()).round().long().reshape(-1)
    sums = torch.zeros(int(ring.max()) + 1, dtype=image.dtype).index_add_(0, ring, image.reshape(-1))
    return (sums / torch.bincount(ring))[: (n - 1) // 2 + 1]


def rim(profile: Float[Tensor, " radii"], pixel_size: float) -> float:
    """Diameter, in the unit of the pixel size, where a profile has fallen to near its least value beyond its peak.

    Where it falls to less than half and rises again, neighbours begin there.
    """
    smooth = torch.nn.functional.avg_pool1d(profile[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    peak = int(smooth[: len(smooth) * 3 // 4].argmax())
    excess = (smooth - smooth[peak:].min()) / (smooth[peak] - smooth[peak:].min()).clamp(min=1e-20)
    least, place = 1.0, len(smooth) - 1
    for radius in range(peak, len(smooth)):
        value = float(excess[radius])
        if value < least:
            least, place = value, radius
        if value < RIM or (least < 0.5 and value > least + RIM):
            break
    return float(2 * MARGIN * place * pixel_size)

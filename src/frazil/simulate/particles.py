"""A particle stack drawn from the model of image formation, with the truth beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from frazil.data.mrc import StackWriter, write_volume
from frazil.data.particle_star import write_new_particles_star
from frazil.data.tilts import TiltViews, tilt_columns
from frazil.numerics.fourier import coefficients_to_images
from frazil.physics.grid import Grid
from frazil.physics.microscope import Microscope
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.simulate.disturbance import Disturbance
from frazil.simulate.junk import Junk
from frazil.simulate.noise import NoiseLevel, NoiseShape, mean_variance, reference_grid
from frazil.simulate.orientations import OrientationLaw
from frazil.simulate.specimen import Conformations, Specimen

IMAGES_AT_ONCE = 32
CALIBRATION_IMAGES = 512


def seeded(seed: int, purpose: str) -> torch.Generator:
    """A random stream of its own for each purpose: another noise level leaves the poses as they are."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


@dataclass(frozen=True)
class OpticsLaw:
    """How the optics of particles are distributed.

    Attributes:
        voltage: kV. cs: mm. amplitude_contrast: fraction. phase_shift: degrees. b_factor: Å^2.
        defocus: smallest and largest mean defocus, Å; uniform between. astigmatism: standard deviation of U - V before
            its sign is dropped, Å; its direction is uniform.
    """

    voltage: float
    cs: float
    amplitude_contrast: float
    phase_shift: float
    b_factor: float
    defocus: tuple[float, float]
    astigmatism: float

    def draw(self, count: int, generator: torch.Generator) -> Optics:
        """Optics for each particle."""
        low, high = self.defocus
        mean = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
        split = (torch.randn(count, generator=generator, dtype=torch.float64) * self.astigmatism).abs()
        angle = 180 * torch.rand(count, generator=generator, dtype=torch.float64)
        return Optics.make(
            voltage=self.voltage,
            cs=self.cs,
            amplitude_contrast=self.amplitude_contrast,
            defocus_u=mean + split / 2,
            defocus_v=mean - split / 2,
            defocus_angle=angle,
            phase_shift=self.phase_shift,
            b_factor=self.b_factor,
        )


@dataclass(frozen=True)
class Draw:
    """Everything about a data set but its noise.

    Attributes:
        specimen: what is imaged. grid: of the images. conformations, pose, optics, half_set (0 or 1): one per image.
        scale: the specimen's density is multiplied by this. measured: signal variances already known, at scale 1.
        junk: which images are not the molecule; None when all are. tilts: which images are views of one particle; None when
            every particle is imaged once.
    """

    specimen: Specimen
    grid: Grid
    conformations: Conformations
    pose: Pose
    optics: Optics | None
    half_set: Tensor
    scale: float = 1.0
    measured: dict[Grid, float] = field(default_factory=dict, repr=False, compare=False)
    junk: Junk | None = None
    tilts: TiltViews | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.pose)

    def coefficients(self, rows: slice, grid: Grid) -> Tensor:
        """Noise-free images of some particles on a grid, as half-plane coefficients."""
        optics = None if self.optics is None else self.optics[rows]
        density = self.specimen.seen_by(self.conformations[rows])
        if self.junk is None:
            return Microscope(density).image(self.pose[rows].to(torch.float32), optics, grid) * self.scale
        clean = Microscope(density).image(self.pose[rows].to(torch.float32), None, grid)

        def project(some: Tensor, pose: Pose) -> Tensor:
            there = self.specimen.seen_by(self.conformations[some])
            return Microscope(there).image(pose.to(torch.float32), None, grid)

        seen = self.junk.put(rows, clean, self.pose, grid, project)
        transfer = 1.0 if optics is None else optics.ctf(grid, grid.half_plane()).to(torch.float32)
        return seen * transfer * self.scale

    def signal_variance(self, grid: Grid) -> float:
        """Variance of the noise-free images of the molecule, averaged over the first ones: junk does not count."""
        if grid not in self.measured:
            calibration = min(self.count, CALIBRATION_IMAGES)
            plain = replace(self, scale=1.0, junk=None)
            sums = [
                mean_variance(plain.coefficients(rows, grid), grid.half_plane()) * (rows.stop - rows.start)
                for rows in chunks(calibration)
            ]
            self.measured[grid] = sum(sums) / calibration
        return self.measured[grid] * self.scale**2


def draw_particles(
    specimen: Specimen,
    grid: Grid,
    count: int,
    *,
    optics: OpticsLaw | None,
    shift_range: float,
    states: int,
    seed: int,
    orientations: OrientationLaw | None = None,
    junk: float = 0.0,
) -> Draw:
    """Conformation, pose, optics and half-set of every particle, each from a random stream of its own.

    Args:
        orientations: None for uniform ones. junk: share of the images that are not the molecule.
    """
    half_set = torch.arange(count) % 2
    pose = Pose.random(count, shift_range, seeded(seed, "pose"), torch.float64)
    if orientations is not None:
        pose = Pose(orientations.draw(count, seeded(seed, "orientation")), pose.shift)
    size = specimen.diameter() or 0.6 * grid.extent
    return Draw(
        specimen=specimen,
        grid=grid,
        conformations=specimen.draw(count, states, seeded(seed, "conformation")),
        pose=pose,
        optics=None if optics is None else optics.draw(count, seeded(seed, "optics")),
        half_set=half_set[torch.randperm(count, generator=seeded(seed, "half set"))],
        junk=Junk.draw(count, junk, size, seeded(seed, "junk")) if junk else None,
    )


def tilted_pairs(draw: Draw, angle: float, optics: OpticsLaw | None, shift_range: float, seed: int) -> Draw:
    """Every particle imaged twice, in neighbouring rows: as it is, and with the stage tilted about the image's y axis.

    The second view has a shift and optics of its own, and the conformation and half-set of the first.

    Args:
        angle: of the stage, degrees.
    """
    count = draw.count
    twice = torch.arange(count).repeat_interleave(2)
    tilts = TiltViews(twice, torch.tensor([0.0, angle]).double().repeat(count), torch.full((2 * count,), 90.0).double())
    again = Pose.random(count, shift_range, seeded(seed, "shift of the second view"), torch.float64)
    shift = torch.stack([draw.pose.shift, again.shift], dim=1).flatten(0, 1)
    seen = draw.optics
    if seen is not None and optics is not None:
        second = optics.draw(count, seeded(seed, "optics of the second view"))
        pairs = zip(seen.__dict__.values(), second.__dict__.values(), strict=True)
        seen = Optics(*(torch.stack(pair, dim=1).flatten() for pair in pairs))
    return replace(
        draw,
        conformations=draw.conformations[twice],
        pose=Pose(tilts.stage @ draw.pose.rotation[twice], shift),
        optics=seen,
        half_set=draw.half_set[twice],
        junk=None if draw.junk is None else draw.junk[twice],
        tilts=tilts,
        measured={},
    )


def noise_level(draw: Draw, ratio: float, pixel_size: float | None, shape: NoiseShape) -> NoiseLevel:
    """The noise for a signal-to-noise ratio stated at a pixel size (Å); None: that of the images.

    With ratio 0 its strength means nothing: there is no signal to compare it with, and the specimen has to be scaled to 0.
    """
    if ratio == 0:
        return NoiseLevel(1.0, shape)
    stated = draw.grid if pixel_size is None else reference_grid(draw.grid, pixel_size)
    return NoiseLevel.from_ratio(ratio, draw.signal_variance(stated), stated, shape)


def normalised(draw: Draw, level: NoiseLevel | None) -> tuple[Draw, NoiseLevel | None]:
    """Scale density and noise together so that the noise (or without noise, the images) has unit variance in a pixel.

    RELION normalises its particles so; the volumes of the truth are on the same scale.
    """
    variance = draw.signal_variance(draw.grid) if level is None else level.variance(draw.grid)
    scaled = replace(draw, scale=draw.scale * variance**-0.5)
    return scaled, None if level is None else replace(level, density=level.density / variance)


def chunks(count: int, size: int = IMAGES_AT_ONCE) -> list[slice]:
    """Slices that cover ``count`` rows."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def sample_images(draw: Draw, rows: slice, level: NoiseLevel | None, generator: torch.Generator) -> Tensor:
    """Images of some particles, noise included: (len, n, n) float32."""
    images = coefficients_to_images(draw.coefficients(rows, draw.grid), draw.grid.half_plane())
    if level is not None:
        images = images + level.noise(draw.grid).sample(images.shape[0], draw.grid, generator)
    return images.to(torch.float32)


def write_images(path: Path, draw: Draw, level: NoiseLevel | None, seed: int, advance: Callable[[int], object]) -> None:
    """Stream the stack to disk; ``advance(n)`` is called after every n images."""
    generator = seeded(seed, "noise")
    with StackWriter(path, draw.grid.box_size, draw.grid.pixel_size) as stack:
        for rows in chunks(draw.count):
            images = sample_images(draw, rows, level, generator)
            stack.append(images)
            advance(len(images))


def write_table(path: Path, draw: Draw, stack: Path, disturbance: Disturbance, seed: int) -> None:
    """The RELION 3.1 table of the stack, with poses and optics (disturbed), half-sets and tilts."""
    pose, optics = draw.pose, draw.optics
    if disturbance != Disturbance():
        pose = disturbance.poses(pose, draw.tilts, seeded(seed, "pose error"))
        optics = disturbance.optics(optics, seeded(seed, "defocus error"))
    extra = None if draw.tilts is None else tilt_columns(draw.tilts)
    write_new_particles_star(path, stack, draw.grid, pose=pose, optics=optics, half_set=draw.half_set, extra=extra)


def write_state_volumes(folder: Path, draw: Draw) -> list[Path]:
    """The noise-free density of every listed state on the grid of the images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"volume_{index:03d}.mrc" for index in range(draw.conformations.count)]
    for index, path in enumerate(paths):
        volume = draw.specimen.state(draw.conformations, index).voxels(draw.grid)
        write_volume(path, volume * draw.scale, draw.grid.pixel_size)
    return paths

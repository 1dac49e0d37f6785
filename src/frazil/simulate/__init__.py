"""Draw a particle stack from the model of image formation, with the truth beside it.

The specimen is a generated molecule with a known motion (``--set``), an atomic model (``--atoms``) or a map
(``--density``). Molecules and atoms are sums of Gaussians and are projected analytically. Orientations are uniform; the
noise has a fixed spectral density (see ``--snr`` and ``--snr-pixel-size``). The same seed gives the same files, bit for
bit.

Sets: ``linear-1d`` a hinge, ``linear-2d`` two hinges, ``circular-1d`` a domain that goes round a full circle,
``discrete-10`` ten states that differ in composition and conformation.

Makes ``outputs/particles.star`` and ``particles.mrcs`` (RELION 3.1; particles bright; pixel values scaled so that the
noise has unit variance), and ``outputs/truth/``: poses, latents, states, and the volume of every state.

Example: ``frazil simulate particles --set linear-1d --count 5000 --box 64 --pixel-size 4 --snr 0.1 --seed 1 --out sim``
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frazil.config import JobConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class Config(JobConfig):
    """What to simulate."""

    what: Literal["particles"] = argument("what to simulate", default="particles")
    set: Literal["linear-1d", "linear-2d", "circular-1d", "discrete-10"] | None = setting(
        None, "generated molecule (linear-1d when neither atoms nor a density are given)"
    )
    atoms: Path | None = setting(None, "atomic model to image: PDB or mmCIF, plain or .gz")
    density: Path | None = setting(None, "map to image: a cubic MRC file")
    count: int = setting(5000, "number of particles", ge=1)
    box: int | None = setting(
        None, "side of the images, pixels (64, or the map's, or half as wide again as the atoms)", ge=8
    )
    pixel_size: float | None = setting(
        None, "pixel size, Å (4, or the map's, or half the resolution of the atoms)", gt=0, allow_inf_nan=False
    )
    resolution: float | None = setting(
        None,
        "width of a Gaussian, Å: sigma is 0.225 of it (four pixels; 3 Å for atoms)",
        gt=0,
        allow_inf_nan=False,
    )
    diameter: float | None = setting(
        None, "diameter of the sphere round a generated molecule, Å (0.75 of the box)", gt=0, allow_inf_nan=False
    )
    states: int = setting(10, "listed states of a continuous motion, whose volumes are written", ge=1)
    snr: float = setting(
        0.1, "variance of the images after the CTF, over all pixels, to that of the noise", gt=0, allow_inf_nan=False
    )
    snr_pixel_size: float | None = setting(
        None,
        "pixel size at which that ratio holds, Å: the images get noise of the same spectral density (theirs)",
        gt=0,
        allow_inf_nan=False,
    )
    noise: Literal["white", "coloured", "none"] = setting("white", "noise spectrum")
    noise_excess: float = setting(
        4.0, "coloured noise: how much stronger at the origin, relative to far out", ge=0, allow_inf_nan=False
    )
    noise_length: float = setting(
        20.0, "coloured noise: spacing where the excess has halved, Å", gt=0, allow_inf_nan=False
    )
    ctf: Literal["on", "off"] = setting("on", "whether the microscope has a contrast transfer function")
    voltage: float = setting(300.0, "acceleration voltage, kV", gt=0, allow_inf_nan=False)
    cs: float = setting(2.7, "spherical aberration, mm", ge=0, allow_inf_nan=False)
    amplitude_contrast: float = setting(0.1, "amplitude contrast, fraction", ge=0, le=1)
    defocus: tuple[float, float] = setting((8000.0, 22000.0), "smallest and largest defocus, Å; uniform between")
    astigmatism: float = setting(
        150.0, "standard deviation of the astigmatism (defocus U - V), Å", ge=0, allow_inf_nan=False
    )
    phase_shift: float = setting(0.0, "phase shift of a phase plate, degrees", allow_inf_nan=False)
    b_factor: float = setting(100.0, "envelope of the microscope, exp(-B s^2 / 4), Å²", ge=0, allow_inf_nan=False)
    shift_range: float = setting(
        10.0, "in-plane shifts are uniform in plus or minus this, Å", ge=0, allow_inf_nan=False
    )


def run(config: Config, job: Job) -> None:
    """Write the stack and its truth into the job's outputs."""
    from frazil.simulate.verb import simulate_particles

    simulate_particles(config, job)

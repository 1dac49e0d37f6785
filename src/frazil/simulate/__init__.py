"""Draw a particle stack from the model of image formation, with the truth beside it.

The specimen is a generated molecule (``--set``), an atomic model (``--atoms``), the path from one conformation to
another (``--atoms`` and ``--atoms-to``) or a map (``--density``). Molecules and atoms are sums of Gaussians and are
projected analytically. The noise has a fixed spectral density (see ``--snr`` and
``--snr-pixel-size``). The same seed gives the same files, bit for bit.

Sets: ``linear-1d`` a hinge, ``linear-2d`` two hinges, ``circular-1d`` a domain that goes round a full circle,
``discrete-10`` ten states that differ in composition and conformation, ``rigid`` the first of these standing still;
``igg1d`` an antibody with one Fab at 100 angles of a full turn, ``ribo16`` a ribosomal subunit in 16 states of its
assembly with uneven shares, ``mix`` different molecules (``--states`` of them). ``--size`` chooses how many images of
which box, pixel size and noise; flags win over it. ``--snr 0`` gives images of noise alone.

For reconstruction from unknown poses: ``--orientations preferred`` lays most particles on one side; ``--junk`` puts in
images that are not the molecule (noise alone, a piece of it, another object, two molecules side by side, in equal parts);
``--tilt-pairs`` images every particle twice, in neighbouring rows; ``--pose-error``, ``--shift-error`` and
``--defocus-error`` disturb what ``particles.star`` says and leave the truth as it is.

Makes ``outputs/particles.star`` and ``particles.mrcs`` (RELION 3.1; particles bright; pixel values scaled so that the
noise has unit variance), and ``outputs/truth/``: poses, latents, states, which images are
junk, and the volume of every state.

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
    set: Literal["rigid", "linear-1d", "linear-2d", "circular-1d", "discrete-10", "igg1d", "ribo16", "mix"] | None = (
        setting(None, "generated molecule (linear-1d when neither atoms nor a density are given)")
    )
    size: Literal["s", "m", "L"] | None = setting(
        None, "how much of a set: s for a test, m for two cores, L for a GPU (m)"
    )
    atoms: Path | None = setting(None, "atomic model to image: PDB or mmCIF, plain or .gz")
    atoms_to: Path | None = setting(
        None, "second conformation of that model: particles lie on the path between the two"
    )
    density: Path | None = setting(None, "map to image: a cubic MRC file")
    count: int | None = setting(None, "number of particles (the set's; 5000)", ge=1)
    box: int | None = setting(
        None, "side of the images, pixels (the set's; the map's; half as wide again as the atoms)", ge=8
    )
    pixel_size: float | None = setting(
        None, "pixel size, Å (the set's; the map's; half the resolution of the atoms)", gt=0, allow_inf_nan=False
    )
    resolution: float | None = setting(
        None,
        "width of a Gaussian, Å: sigma is 0.225 of it (three pixels; 3 Å for atoms, igg1d, ribo16 and mix)",
        gt=0,
        allow_inf_nan=False,
    )
    diameter: float | None = setting(
        None,
        "diameter of the sphere round a generated molecule, Å (0.75 of the box; its own for igg1d, ribo16 and mix)",
        gt=0,
        allow_inf_nan=False,
    )
    states: int | None = setting(
        None, "conformations of a motion whose volumes are written, or molecules of mix (the set's; 10)", ge=1
    )
    snr: float | None = setting(
        None,
        "variance of the images after the CTF, over all pixels, to that of the noise; 0 for noise alone (the set's; 0.1)",
        ge=0,
        allow_inf_nan=False,
    )
    snr_pixel_size: float | None = setting(
        None,
        "pixel size at which that ratio holds, Å: the images get noise of the same spectral density (the set's; theirs)",
        gt=0,
        allow_inf_nan=False,
    )
    orientations: Literal["uniform", "preferred"] = setting("uniform", "how viewing directions are distributed")
    orientation_spread: float = setting(
        15.0,
        "preferred orientations: standard deviation of the viewing direction about one axis of the molecule, degrees",
        gt=0,
        le=60,
    )
    orientation_uniform: float = setting(
        0.2, "preferred orientations: share of the particles without a preference", ge=0, le=1
    )
    junk: float = setting(0.0, "share of the particles that are not the molecule", ge=0, lt=1)
    tilt_pairs: float | None = setting(
        None, "image every particle twice, the second time with the stage tilted about y by this, degrees", gt=0, le=90
    )
    pose_error: float = setting(
        0.0, "turn the poses in particles.star by a random angle of this root mean square, degrees", ge=0, le=60
    )
    shift_error: float = setting(
        0.0,
        "move the shifts in particles.star along x and y by errors of this standard deviation, Å",
        ge=0,
        allow_inf_nan=False,
    )
    defocus_error: float = setting(
        0.0, "add errors of this standard deviation to the defocus in particles.star, Å", ge=0, allow_inf_nan=False
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
    shift_range: float | None = setting(
        None, "in-plane shifts are uniform in plus or minus this, Å (the set's; 10)", ge=0, allow_inf_nan=False
    )


def run(config: Config, job: Job) -> None:
    """Write the stack and its truth into the job's outputs."""
    from frazil.simulate.verb import simulate_particles

    simulate_particles(config, job)

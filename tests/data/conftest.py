"""Small particle sets made on the spot: nothing here needs the shared data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

COUNT, BOX = 6, 16


@pytest.fixture
def images() -> np.ndarray:
    """Six images of 16 × 16, float32, of unit background."""
    return np.random.default_rng(1).normal(size=(COUNT, BOX, BOX)).astype(np.float32)


@pytest.fixture
def write_mrc() -> Callable[..., Path]:
    """Writes an MRC file with mrcfile, the independent reference."""

    def write(path: Path, values: np.ndarray, pixel_size: float = 2.5, stack: bool = True) -> Path:
        with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as file:
            # mrcfile warns of the NaN that some tests are about
            warnings.simplefilter("ignore", RuntimeWarning)
            file.set_data(values)
            if stack:
                file.set_image_stack()
            file.voxel_size = pixel_size
        return path

    return write


RELION_31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
opticsGroup1 1 300.000000 2.700000 0.070000 2.500000 16 2

data_particles

loop_
_rlnCoordinateX #1
_rlnImageName #2
_rlnMicrographName #3
_rlnOpticsGroup #4
_rlnDefocusU #5
_rlnDefocusV #6
_rlnDefocusAngle #7
_rlnAngleRot #8
_rlnAngleTilt #9
_rlnAnglePsi #10
_rlnOriginXAngst #11
_rlnOriginYAngst #12
_rlnRandomSubset #13
_rlnSomethingElse #14
{rows}
"""


def relion_rows(count: int = COUNT, stack: str = "images.mrcs") -> list[str]:
    return [
        f"{100 + row}.500000 {row + 1:06d}@{stack} mic{row % 2}.mrc 1 {15000 + row}.25 {14500 + row}.5 {10 * row}.0 "
        f"{20 * row}.5 {15 * row}.25 {-30 * row}.125 {row}.75 -{row}.5 {row % 2 + 1} kept{row}"
        for row in range(count)
    ]


@pytest.fixture
def star(tmp_path: Path, images: np.ndarray, write_mrc: Callable[..., Path]) -> Path:
    """`particles.star` (RELION 3.1) with poses, CTF and a column of its own, and `images.mrcs` beside it."""
    write_mrc(tmp_path / "images.mrcs", images)
    path = tmp_path / "particles.star"
    path.write_text(RELION_31.format(rows="\n".join(relion_rows())))
    return path

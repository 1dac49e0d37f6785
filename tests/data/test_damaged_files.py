"""Whatever happens to a file, the answer is a reading of it or one clear line: never a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.data.conversion import export_cryodrgn, export_cryosparc
from frazil.data.mrc import write_volume
from frazil.data.recognise import recognise
from frazil.data.stack import read_particles
from frazil.errors import InputError

WORDS = [b"nan", b"-1", b"inf", b"1e999", b'"', b"'", b"#", b"_x ", b"loop_\n", b"data_\n", b"0", b"@", b"\n", b"\0"]


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Cut short, bytes changed, bytes lost, bytes added, or a telling word in the wrong place."""
    place = generator.randrange(len(data))
    start, rest = data[:place], data[place:]
    noise = generator.randbytes(generator.randrange(1, 20))
    return generator.choice(
        [start, start + noise + rest[len(noise) :], start + rest[len(noise) :], start + noise + rest,
         start + generator.choice(WORDS) + rest[generator.randrange(6) :]]
    )  # fmt: skip


@pytest.fixture
def files(star: Path, tmp_path: Path, images: np.ndarray, write_mrc: Callable) -> list[Path]:
    particles = read_particles(star)
    export_cryosparc(particles, tmp_path)
    export_cryodrgn(particles, tmp_path)
    write_volume(tmp_path / "map.mrc", images, 2.5)
    np.save(tmp_path / "array.npy", images)
    (tmp_path / "list.txt").write_text("images.mrcs\n")
    (tmp_path / "picks.box").write_text("10 20 30 30\n" * 5)
    (tmp_path / "tilts.mdoc").write_text(
        "PixelSpacing = 1.5\n[ZValue = 0]\nTiltAngle = 3\n[ZValue = 1]\nTiltAngle = 6\n"
    )
    names = "particles.star particles.cs pose.pkl ctf.pkl images.mrcs map.mrc array.npy list.txt picks.box tilts.mdoc"
    return [tmp_path / name for name in names.split()]


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_reads_or_says_so_in_one_line(files: list[Path], tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in files:
        whole = path.read_bytes()
        for _ in range(12):
            target = folder / path.name
            target.write_bytes(damaged(whole, generator))
            try:
                recognise(target).text()
            except InputError as error:
                assert "\n" not in str(error) and path.name in str(error)

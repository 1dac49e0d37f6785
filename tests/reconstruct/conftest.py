"""A small simulated stack, made once."""

from pathlib import Path

import pytest

from frazil.cli import main


@pytest.fixture(scope="session")
def small_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The star file of 80 hinge images of 24 pixels."""
    folder = tmp_path_factory.mktemp("small-stack") / "sim"
    flags = ["--set", "linear-1d", "--count", "80", "--box", "24", "--pixel-size", "8", "--snr", "0.5", "--seed", "1"]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder / "outputs" / "particles.star"

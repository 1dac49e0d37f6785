"""A small simulated stack, made once, and a server of commands that are killed or work together."""

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

from frazil.cli import main
from frazil.data.stack import read_particles, write_particles_star
from frazil.numerics.rotations import from_rotation_vector
from frazil.physics.pose import Pose


@pytest.fixture(scope="session")
def small_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The star file of 80 hinge images of 24 pixels."""
    folder = tmp_path_factory.mktemp("small-stack") / "sim"
    flags = ["--set", "linear-1d", "--count", "80", "--box", "24", "--pixel-size", "8", "--snr", "0.5", "--seed", "1"]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder / "outputs" / "particles.star"


@pytest.fixture(scope="session")
def small_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The star file of 40 particles of it in two views each."""
    folder = tmp_path_factory.mktemp("small-pairs") / "sim"
    flags = ["--set", "linear-1d", "--count", "40", "--box", "24", "--pixel-size", "8", "--snr", "0.5", "--seed", "1"]
    assert main(["simulate", "particles", *flags, "--tilt-pairs", "45", "--out", str(folder)]) == 0
    return folder / "outputs" / "particles.star"


@pytest.fixture(scope="session")
def rigid_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The star file of 500 images of one rigid molecule, 32 pixels wide."""
    folder = tmp_path_factory.mktemp("rigid") / "sim"
    flags = ["--set", "rigid", "--count", "500", "--box", "32", "--pixel-size", "6", "--snr", "1", "--seed", "3"]
    assert main(["simulate", "particles", *flags, "--out", str(folder)]) == 0
    return folder / "outputs" / "particles.star"


@pytest.fixture(scope="session")
def disturbed_stack(rigid_stack: Path) -> Path:
    """The same with rotations wrong by 5 degrees, shifts by a pixel and defoci by 300 Å (root mean squares)."""
    particles, generator = read_particles(rigid_stack), torch.Generator().manual_seed(1)
    assert particles.pose is not None and particles.optics is not None
    count = particles.count
    vector = torch.randn(count, 3, generator=generator, dtype=torch.float64) * math.radians(5 / 3**0.5)
    rotation = from_rotation_vector(vector).float() @ particles.pose.rotation
    shift = particles.pose.shift + 6 / 2**0.5 * torch.randn(count, 2, generator=generator)
    optics, more = particles.optics, 300 * torch.randn(count, generator=generator)
    wrong = dataclasses.replace(optics, defocus_u=optics.defocus_u + more, defocus_v=optics.defocus_v + more)
    path = rigid_stack.parent / "disturbed.star"
    write_particles_star(particles.given(pose=Pose(rotation, shift), optics=wrong), path)
    return path


class Server:
    """The process in whose forks commands run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout
        self.input, self.output = process.stdin, process.stdout

    def start(self, *arguments: object, processes: int = 1, said: Path | None = None) -> list[int]:
        """Starts a command; returns the ids of its processes. Their errors go to ``said``, a file each."""
        request = [processes, [str(argument) for argument in arguments], None if said is None else str(said)]
        self.input.write(json.dumps(request) + "\n")
        self.input.flush()
        return json.loads(self.output.readline())

    def wait(self) -> list[int]:
        """The exit codes, negative for the signal that killed a process."""
        return json.loads(self.output.readline())

    def run(self, *arguments: object, processes: int = 1, said: Path | None = None) -> list[int]:
        """Runs a command to its end."""
        self.start(*arguments, processes=processes, said=said)
        return self.wait()

    def wait_for_epochs(self, folder: Path, epochs: int) -> None:
        """Until so many epochs or passes have been written down; the first line of metrics is that of the consensus."""
        path, deadline = folder / "metrics.jsonl", time.monotonic() + 120
        while not path.is_file() or len(path.read_text().splitlines()) < 1 + epochs:
            assert time.monotonic() < deadline, "training did not get that far"
            time.sleep(0.002)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Runs commands without waiting for imports."""
    script = Path(__file__).with_name("command_server.py")
    with subprocess.Popen([sys.executable, script], stdin=PIPE, stdout=PIPE, text=True) as process:
        yield Server(process)
        assert process.stdin
        process.stdin.close()

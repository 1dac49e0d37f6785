"""What all tests share: real data when it is there, the command line, checked shapes, one thread unless told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def check_shapes() -> None:
    """Has the shapes in signatures checked while tests run. Must come before the first import of the package."""
    from beartype import BeartypeConf, beartype
    from beartype.roar import BeartypeDecorHintPep673Exception
    from jaxtyping import install_import_hook

    numbers_as_usual = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float

    def checked(function: Callable[..., object]) -> Callable[..., object]:
        for name, hint in function.__annotations__.items():
            with suppress(NameError):  # known to type checkers only
                # a wrong word has an error of its own, which tests look for
                if "Literal" in f"{eval(hint, function.__globals__) if isinstance(hint, str) else hint}":
                    function.__annotations__[name] = object
        try:
            return numbers_as_usual(function)
        except BeartypeDecorHintPep673Exception:  # methods are decorated one by one, so `Self` has no class to mean
            return function

    checker = types.ModuleType("frazil_shape_checker")
    checker.checked = checked  # type: ignore[attr-defined]
    sys.modules[checker.__name__] = checker
    package = REPOSITORY / "src" / "frazil"
    sources = [p for layer in ("numerics", "physics") for p in (package / layer).glob("*.py") if p.stem != "__init__"]
    # numba compiles its functions from their own source: no wrapper may come between
    modules = [f"frazil.{p.parent.name}.{p.stem}" for p in sources if "import numba" not in p.read_text()]
    install_import_hook(modules, "frazil_shape_checker.checked")


if "FRAZIL_NO_TYPECHECK" not in os.environ:
    check_shapes()

import torch  # noqa: E402

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data and hostile files: FRAZIL_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("FRAZIL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder} (set FRAZIL_DATA)")
    return folder


@dataclass(frozen=True)
class Finished:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_frazil(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Runs ``frazil ARGUMENTS...`` within the test process."""
    from frazil.cli import main

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Finished(code, said.out, said.err)

    return run


@pytest.fixture
def spawn_frazil() -> Callable[..., Finished]:
    """Runs ``frazil ARGUMENTS...`` in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None, timeout: float = 60) -> Finished:
        return spawn([sys.executable, "-m", "frazil", *map(str, arguments)], cwd, timeout)

    return run


@pytest.fixture
def spawn_torchrun() -> Callable[..., Finished]:
    """Runs ``torchrun --nproc-per-node COUNT -m frazil ARGUMENTS...``."""

    def run(count: int, *arguments: object, timeout: float = 120) -> Finished:
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "frazil")
        return spawn([sys.executable, *launcher, *map(str, arguments)], None, timeout)

    return run


def spawn(command: Sequence[str], cwd: Path | None, timeout: float) -> Finished:
    """Runs a command to its end."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)

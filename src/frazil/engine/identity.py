"""What makes two jobs the same: the verb, the settings that matter, the inputs, and the version of the program."""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import time
from pathlib import Path
from typing import Any

from frazil import __version__
from frazil.config import RUN_ONLY, JobConfig, plain_values
from frazil.engine.files import write_text
from frazil.errors import InputError

END_SIZE = 1 << 20  # bytes at each end of a file that are hashed


def describe_inputs(inputs: list[Path]) -> list[dict[str, Any]]:
    """Path, size, time and hash of every input.

    Of a file the first and the last MB are hashed: stacks are large and what is changed in them changes size or time.
    A job folder is described by the files it made.

    Raises:
        InputError: when an input is not there.
    """
    return [_describe(Path(path)) for path in inputs]


def _describe(path: Path) -> dict[str, Any]:
    if path.is_file():
        stat = path.stat()
        return {
            "path": str(path.resolve()),
            "size": stat.st_size,
            "modified": stat.st_mtime_ns // 1000 / 1e6,
            "sha256": _hash_ends(path, stat.st_size),
        }
    if path.is_dir():
        outputs = path / "outputs" if (path / "job.toml").is_file() else path
        made = sorted(p for p in outputs.iterdir() if p.is_file() and not p.name.startswith("."))
        listing = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in made]
        return {"path": str(path.resolve()), "sha256": hashlib.sha256(repr(listing).encode()).hexdigest()}
    raise InputError("there is no such file or folder", where=path, remedy="check the path")


def _hash_ends(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(END_SIZE))
        if size > END_SIZE:
            file.seek(max(size - END_SIZE, END_SIZE))
            digest.update(file.read())
    return digest.hexdigest()


def job_digest(verb: str, config: JobConfig, inputs: list[dict[str, Any]]) -> str:
    """A name for the job that is the same exactly when its result would be."""
    content = {
        "version": __version__,
        "verb": verb,
        "settings": plain_values(config, leave_out=RUN_ONLY),
        "inputs": inputs,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_job_toml(
    path: Path, verb: str, config: JobConfig, inputs: list[dict[str, Any]], digest: str, command: str
) -> None:
    """Writes the record of a job: who did what with which settings and inputs. ``--config job.toml`` repeats it."""
    import tomlkit

    document = tomlkit.document()
    about = {
        "verb": verb,
        "command": command,
        "version": __version__,
        "seed": config.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "user": _user(),
        "python": platform.python_version(),
        "digest": digest,
    }
    document.add("job", tomlkit.item(about))
    document.add(verb, tomlkit.item(plain_values(config, leave_out=frozenset({"out", "again"}))))
    listed = tomlkit.aot()
    for description in inputs:
        listed.append(tomlkit.item(description))
    if inputs:
        document.add("inputs", listed)
    write_text(path, tomlkit.dumps(document))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may know no name for its user
        return ""

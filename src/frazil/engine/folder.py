"""Which folder a job gets: a new one, the one it was interrupted in, or the one where its result already is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from frazil.errors import InputError

OURS = (
    "job.toml",
    "status.json",
    "log.txt",
    "metrics.jsonl",
    "outputs",
    "figures",
    "checkpoints",
    "report.html",
    "open.cxc",
)


@dataclass
class Claim:
    """A folder held by this process until `release`."""

    folder: Path
    resumed: bool = False
    finished: bool = False
    _lock: int | None = None

    def release(self) -> None:
        """Lets other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)  # the system takes the lock off, as it does when the process is killed
            self._lock = None


def claim_folder(verb: str, out: Path | None, digest: str, *, again: bool) -> Claim:
    """Takes the folder for a job with this digest.

    Raises:
        InputError: when the folder holds something that would be lost, or another process is at work in it.
    """
    if out is not None:
        return _claim_given(out, digest, again=again)
    jobs = Path(verb)
    numbered = sorted(p for p in jobs.glob("J*") if p.name[1:].isdigit()) if jobs.is_dir() else []
    if not again:
        for folder in reversed(numbered):
            if _digest_of(folder) == digest:
                return _claim_same(folder)
    number = max((int(p.name[1:]) for p in numbered), default=0) + 1
    while True:
        folder = jobs / f"J{number:03d}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another process was quicker
            number += 1
            continue
        return Claim(folder, _lock=_lock(folder))


def _claim_same(folder: Path) -> Claim:
    lock = _lock(folder)
    if _state_of(folder) == "finished":
        os.close(lock)
        return Claim(folder, finished=True)
    return Claim(folder, resumed=True, _lock=lock)


def _claim_given(folder: Path, digest: str, *, again: bool) -> Claim:
    if folder.exists() and not folder.is_dir():
        raise InputError("this is a file", where=f"--out {folder}", remedy="give the name of a folder")
    held = [name for name in OURS if (folder / name).exists()] if folder.is_dir() else []
    if not held:
        _make(folder)
        return Claim(folder, _lock=_lock(folder))
    if "job.toml" not in held:
        raise InputError(
            f"this folder has {held[0]} but is no job", where=f"--out {folder}", remedy="give another folder"
        )
    if _digest_of(folder) == digest and not again:
        return _claim_same(folder)
    lock = _lock(folder)
    if _worthless(folder):
        for name in OURS:
            _remove(folder / name)
    elif again:
        _set_aside(folder, held)
    else:
        os.close(lock)
        raise InputError(
            f"this folder holds {_what(folder)} with other settings or inputs",
            where=f"--out {folder}",
            remedy=f"give another folder, or add --again (what is there is moved to {_aside(folder).name})",
        )
    return Claim(folder, _lock=lock)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"the folder cannot be made: {reason}", where=f"--out {folder}", remedy="give another folder"
        ) from None


def _lock(folder: Path) -> int:
    """Locks the folder for this process. The lock ends with the process, however that ends."""
    import fcntl

    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"the folder cannot be written to: {reason}", where=folder, remedy="give another --out"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise InputError(
            "another process is running this job", where=folder, remedy="wait for it, or give another --out"
        ) from None
    return handle


def _digest_of(folder: Path) -> str | None:
    try:
        return tomllib.loads((folder / "job.toml").read_text(encoding="utf-8"))["job"]["digest"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None


def _state_of(folder: Path) -> str:
    try:
        return json.loads((folder / "status.json").read_text(encoding="utf-8"))["state"]
    except (OSError, KeyError, ValueError):
        return "interrupted"


def _worthless(folder: Path) -> bool:
    """Whether a job stopped before it made anything: a wrong flag leaves such folders."""
    if _state_of(folder) == "finished":
        return False
    return not any(p.is_file() for name in ("outputs", "checkpoints") for p in (folder / name).rglob("*"))


def discard_if_worthless(folder: Path) -> None:
    """Removes the folder of a job that stopped before it made anything."""
    if _worthless(folder):
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # it holds other jobs
            folder.parent.rmdir()


def _what(folder: Path) -> str:
    return "a finished job" if _state_of(folder) == "finished" else "an unfinished job"


def _aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return aside


def _set_aside(folder: Path, held: list[str]) -> None:
    aside = _aside(folder)
    aside.mkdir()
    for name in held:
        (folder / name).rename(aside / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""A job: one verb, one config, one folder that says what was done and can be taken up where it stopped."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from frazil.config import JobConfig
from frazil.engine.files import without_nan, write_json
from frazil.engine.folder import Claim, claim_folder, discard_if_worthless
from frazil.engine.identity import describe_inputs, job_digest, write_job_toml
from frazil.engine.machine import GIGABYTE, available_memory, check_memory, choose_device
from frazil.engine.metrics import Metrics
from frazil.engine.processes import ALONE, Processes
from frazil.engine.progress import Progress, Terminal
from frazil.errors import InputError


class Job:
    """The folder of a job and the way to speak from within it. Made by `open_job`; final.

    As a context manager it writes into ``status.json`` how the work ended: finished, failed or interrupted.

    Where several processes work on the job, each has a `Job`; only that of the first says or writes anything.
    """

    def __init__(
        self, claim: Claim, verb: str, config: JobConfig, terminal: Terminal, processes: Processes = ALONE
    ) -> None:
        self.folder = claim.folder
        self.outputs = claim.folder / "outputs"
        self.figures = claim.folder / "figures"
        self.checkpoints = claim.folder / "checkpoints"
        self.resumed = claim.resumed
        self.finished = claim.finished
        self.verb = verb
        self.device = "cpu" if claim.finished else choose_device(config.device)
        self.terminal = terminal
        self.processes = processes
        self._config = config
        self._claim = claim
        self._state: dict[str, Any] = {"verb": verb, "state": "running"}
        self._shown = 0.0
        self._metrics = Metrics(self.folder if processes.first else None, tensorboard=config.tensorboard)

    @property
    def name(self) -> str:
        """``reconstruct/J002``, or the folder's name when it was given with --out."""
        numbered = self.folder.parent.name == self.verb and self.folder.name.startswith("J")
        return f"{self.verb}/{self.folder.name}" if numbered else self.folder.name

    def log(self, text: str) -> None:
        """Says something on the terminal and in ``log.txt``."""
        if not self.processes.first:
            return
        self.terminal.line(text)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def metric(self, **values: float | int | str) -> None:
        """Adds one line to ``metrics.jsonl``. Give only what would be the same in a repeated run: no times."""
        self._metrics.add(values)

    @property
    def metrics(self) -> Metrics:
        """The file of metrics, for those who must take it back to an earlier state."""
        return self._metrics

    def metrics_of(self, folder: Path) -> Metrics:
        """The metrics of a part of the work that has a folder of its own, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        return Metrics(folder if self.processes.first else None, tensorboard=self._config.tensorboard)

    @contextlib.contextmanager
    def progress(self, total: int, description: str, unit: str = "images") -> Iterator[Progress]:
        """Shows the progress of `total` units of work, here and in ``status.json``."""
        if not self.processes.first:
            yield Progress(total, lambda done: None)
            return
        with self.terminal.progress(total, description, unit) as shown:
            shown.watch(lambda done: self._note_progress(description, done, total))
            yield shown
        self._state.pop("progress", None)

    def announce_memory(self, size: float, purpose: str) -> None:
        """States the memory of the work to come before it starts. A meeting of the processes.

        Args:
            size: bytes at the peak, in this process.
            purpose: what takes most of them.

        Raises:
            InputError: when it is more than --memory allows or the machine has for each of its processes.
        """
        self.log(check_memory(size, purpose, self._config.memory, self._available(), self.processes.local_count))

    def memory_to_be_had(self) -> float | None:
        """Bytes that this process may take; None where nobody knows. A meeting of the processes."""
        return self._available() if self._config.memory is None else self._config.memory * GIGABYTE

    def _available(self) -> float | None:
        """What the machine has for each process. All ask before one begins to use it, and agree on the answer."""
        free = available_memory()
        least = self.processes.least(math.inf if free is None else free / self.processes.local_count)
        return None if math.isinf(least) else least

    def made(self, path: Path, good: str, next_command: str) -> None:
        """The closing lines: what was made, how good it is, what to type next."""
        self._state |= {"made": str(path), "good": good, "next": next_command}
        for line in (f"made  {path}", f"good  {good}", f"next  {next_command}"):
            self.log(line)

    def result(self, value: Any) -> None:
        """Keeps what the verb returned (text, or anything that JSON can hold), so that it can be told again."""
        if value is not None:
            self._state["result"] = without_nan(value)

    def finish(self, state: str = "finished", message: str = "") -> None:
        """Ends the job and lets go of its folder."""
        self._state |= {"state": state, "ended": time.time()} | ({"message": message} if message else {})
        self._state.pop("progress", None)
        self._write_status(durable=True)
        self._metrics.close()
        self._claim.release()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, KeyboardInterrupt):
            self.finish("interrupted")
        else:
            self.finish("failed", f"{error}" or kind.__name__)
            if isinstance(error, InputError) and self._config.out is None and self.processes.first:
                discard_if_worthless(self.folder)  # a mistyped flag shall not use up a number

    def start(self) -> Job:
        """Makes the folders and says that the job runs."""
        for folder in (self.outputs, self.figures, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        self._state |= {"started": time.time(), "pid": os.getpid(), "host": platform.node()}
        self._write_status()
        return self

    def seen_by_others(self) -> Claim:
        """The folder as the other processes have it: they work in it, and the lock stays with the first."""
        return Claim(self.folder, self.resumed, self.finished)

    def _note_progress(self, description: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._shown >= 1.0:
            self._shown = now
            self._state["progress"] = {"description": description, "done": done, "total": total}
            self._write_status()

    def _write_status(self, *, durable: bool = False) -> None:
        if not self.processes.first:
            return
        write_json(self.folder / "status.json", self._state | {"updated": time.time()}, durable=durable)


def open_job(
    verb: str,
    config: JobConfig,
    inputs: list[Path],
    command: str = "",
    *,
    stream: TextIO | None = None,
    processes: Processes = ALONE,
) -> Job:
    """Finds or makes the folder of a job.

    Without ``config.out`` it is ``VERB/J001``, ``VERB/J002``, ... in the current folder. A job with the same settings
    and inputs that has finished is returned with `finished` set, and nothing is to be done; one that was interrupted is
    returned with `resumed` set and goes on.

    Args:
        inputs: files and job folders that the result depends on.
        command: what was typed, for the record.
        stream: where the job speaks; standard output when not given.
        processes: those that work on the job. The first one takes the folder, for all.

    Raises:
        InputError: when an input is missing, a GPU is wanted and there is none, the folder holds something else, or
            another process is running this job.
    """
    terminal = Terminal(stream)
    if processes.first:
        job = _take_folder(verb, config, inputs, command, terminal, processes)
        processes.from_first(job.seen_by_others)
        return job
    return Job(processes.from_first(lambda: Claim(Path())), verb, config, terminal, processes)


def _take_folder(
    verb: str, config: JobConfig, inputs: list[Path], command: str, terminal: Terminal, processes: Processes
) -> Job:
    described = describe_inputs(inputs)
    digest = job_digest(verb, config, described)
    claim = claim_folder(verb, config.out, digest, again=config.again)
    try:
        job = Job(claim, verb, config, terminal, processes)
        if not claim.finished:
            if not claim.resumed:
                write_job_toml(claim.folder / "job.toml", verb, config, described, digest, command)
            job.start()
        return job
    except BaseException:
        claim.release()
        raise


def read_status(folder: Path) -> dict[str, Any]:
    """The content of ``status.json``; empty when there is none."""
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}

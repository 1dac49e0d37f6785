"""Commands that the demo types for the reader."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frazil.errors import FrazilError

if TYPE_CHECKING:
    from frazil.demo import Config
    from frazil.engine.job import Job


@dataclass
class Steps:
    """Runs verbs one after another, each in a folder of its own below the demo's.

    Attributes:
        total: how many there will be. said: the commands so far, as they may be typed.
    """

    config: Config
    job: Job
    total: int
    said: list[str]

    def folder(self, name: str) -> Path:
        """The job folder of a step."""
        return self.job.folder / name

    def run(self, name: str, *words: str) -> Path:
        """Run `frazil WORDS` in the folder `name`; a step that was finished before is not run again.

        Raises:
            FrazilError: the command failed; it has said why.
            KeyboardInterrupt: it was stopped with Ctrl-C.
        """
        from frazil.cli import INTERRUPTED, main

        folder = self.folder(name)
        command = [*words, "--out", str(folder)]
        self.say(command)
        if self.config.again and not self.job.resumed:
            command.append("--again")
        code = main([*command, *self._machine(words[0])])
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise FrazilError(f"the step {words[0]} of the demo failed; the line above says why")
        return folder

    def figures_of(self, *words: str) -> dict[str, Any]:
        """The numbers of `frazil evaluate WORDS`, which makes no folder."""
        from frazil.cli import find_verb, read_command

        verb = find_verb(words[0])
        self.say(list(words))
        return verb.load().run(read_command(verb, [*words[1:], "--json"], {}), None)

    def say(self, command: list[str]) -> None:
        """Tell the command that is run next."""
        text = shlex.join(["frazil", *command])
        self.said.append(text)
        self.job.log(f"\n[{len(self.said)}/{self.total}] {text}")

    def _machine(self, verb: str) -> list[str]:
        flags = ["--device", self.config.device]
        flags += ["--threads", str(self.config.threads)] if self.config.threads else []
        flags += ["--memory", str(self.config.memory)] if self.config.memory else []
        return flags + (["--tensorboard"] if self.config.tensorboard and verb == "reconstruct" else [])

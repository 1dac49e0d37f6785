"""The command line: `frazil VERB ...`.

A verb is a module with a docstring (its manual page), a `Config` and `run(config, job)`. This file knows the table of
verbs, reads flags into a config, opens the job, and tells errors in one line. Nothing here imports torch: `--help` answers
at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from frazil import __version__
from frazil.engine.processes import INTERRUPTED, Place, Processes, ToldElsewhere, alike, joined
from frazil.errors import FrazilError, InputError


@dataclass(frozen=True)
class Verb:
    """A word of the command line, the module behind it, and what it does in one line."""

    name: str
    module: str
    line: str
    group: str

    def load(self) -> ModuleType:
        """The module: docstring, `Config`, `run`, `MAKES_JOB` (true unless it says otherwise), `MANY_PROCESSES` (false)."""
        return import_module(self.module)


VERBS = (
    Verb("simulate", "frazil.simulate", "images of a known, moving molecule, with the truth beside them", "pipeline"),
    Verb("classify", "frazil.classify", "particles to 2-D class averages, good and bad particles", "pipeline"),
    Verb("reconstruct", "frazil.reconstruct", "particles to density maps and their conformations", "pipeline"),
    Verb("analyze", "frazil.analyze", "latent coordinates to states, trajectories, maps and a report", "pipeline"),
    Verb("decode", "frazil.analyze.decode", "latent coordinates to density maps", "pipeline"),
    Verb("evaluate", "frazil.evaluate", "a result against the truth, in numbers", "pipeline"),
    Verb("export", "frazil.data.export", "particles to the formats of other programs", "files"),
    Verb("inspect", "frazil.data.inspect", "what a file is, and whether it looks right", "files"),
    Verb("demo", "frazil.demo", "the whole way, from a generated molecule to a report", "help"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 when all went well, 2 for bad input, 1 for any other failure, 130 when it was stopped with Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _command(argv)
        # what is still in the buffer would meet a reader that has gone only when the interpreter ends, beyond this handler
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe went away (`frazil inspect FILE | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ToldElsewhere as error:
        if "--debug" in argv:
            traceback.print_exc()
        return error.exit_code
    except KeyboardInterrupt:
        _say("stopped; the same command goes on where it stopped")
        return INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        if isinstance(error, FrazilError):
            _say(f"error: {_one_line(error)}")
            return error.exit_code
        hint = "" if "--debug" in argv else "; run again with --debug for the traceback"
        _say(f"error: {type(error).__name__}: {_one_line(error)}{hint}")
        return 1


def _command(argv: list[str]) -> int:
    if argv[:1] == ["help"] and len(argv) > 1:
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(front_page())
        return 0
    if argv[0] == "--version":
        sys.stdout.write(f"frazil {__version__}\n")
        return 0
    place = Place.told_by(os.environ)
    rest = argv[1:]
    with alike(place):
        verb = find_verb(argv[0])
        below = settings_below(verb, rest)
        if any(token in ("-h", "--help") for token in rest):
            sys.stdout.write(verb_page(verb, below))
            return 0
        config = read_command(verb, rest, below)
        _check_processes(verb, place)
    return _run(verb, rest, config, place)


def _check_processes(verb: Verb, place: Place) -> None:
    if place.count > 1 and not getattr(verb.load(), "MANY_PROCESSES", False):
        raise InputError(
            f"frazil {verb.name} works in one process, and {place.count} were started",
            remedy="start it without torchrun",
        )


def find_verb(name: str) -> Verb:
    """The verb of that name.

    Raises:
        InputError: when there is none, with the nearest.
    """
    for verb in VERBS:
        if verb.name == name:
            return verb
    what = "flag" if name.startswith("-") else "verb"
    near = get_close_matches(name, [v.name for v in VERBS], 1)
    remedy = f"did you mean frazil {near[0]}?" if near else "see frazil --help"
    raise InputError(f"unknown {what} {name}", remedy=remedy)


def front_page() -> str:
    """The text of ``frazil --help``."""
    lines = ["usage: frazil VERB ... [--help]", ""]
    lines += [
        "Single-particle cryo-EM from movies to moving molecules with one differentiable model of image formation.",
        "",
    ]
    for group in dict.fromkeys(verb.group for verb in VERBS):
        lines.append(f"{group}:")
        lines += [f"  {verb.name:<12} {verb.line}" for verb in VERBS if verb.group == group]
        lines.append("")
    lines += ["first steps:", "  frazil demo", "  frazil reconstruct particles.star", "  frazil VERB --help", ""]
    return "\n".join(lines)


def verb_page(verb: Verb, below: Mapping[str, Any] | None = None) -> str:
    """The text of ``frazil VERB --help``, with the defaults of a preset or file where one is given."""
    from frazil.config import preset_names
    from frazil.flags import help_page

    module = verb.load()
    presets = preset_names(verb.name)
    manual = (module.__doc__ or verb.line) + (f"\n\nPresets: {', '.join(presets)}." if presets else "")
    return help_page(module.Config, manual, prog=f"frazil {verb.name}", below=below, extra=command_flags(verb))


def command_flags(verb: Verb) -> Any:
    """The flags that the command line adds to a verb's own."""
    from frazil.config import preset_names
    from frazil.flags import CommandFlags, PresetFlags

    return PresetFlags if preset_names(verb.name) else CommandFlags


def settings_below(verb: Verb, rest: Sequence[str]) -> dict[str, Any]:
    """The settings under the flags: those of --preset, and over them those of --config.

    Raises:
        InputError: for a preset or file that is not there, and for a wrong setting in it.
    """
    from frazil.config import check_layer, merge, read_config_file, read_preset

    layers = [(name, read_preset(name, verb.name)) for name in _values_of("--preset", rest)]
    layers += [(path, read_config_file(Path(path), verb.name)) for path in _values_of("--config", rest)]
    below: dict[str, Any] = {}
    for source, layer in layers:
        check_layer(verb.load().Config, layer, where=source)
        below = merge(below, layer)
    return below


def _values_of(flag: str, rest: Sequence[str]) -> list[str]:
    following = [value for token, value in zip(rest, rest[1:], strict=False) if token == flag]
    return following + [token.partition("=")[2] for token in rest if token.startswith(f"{flag}=")]


def read_command(verb: Verb, rest: Sequence[str], below: Mapping[str, Any]) -> Any:
    """The verb's config from what was typed after the verb.

    Raises:
        InputError: in one line, for whatever cannot be used.
    """
    from frazil.config import build, merge
    from frazil.flags import parse_flags

    model = verb.load().Config
    typed = parse_flags(model, rest, prog=f"frazil {verb.name}", below=below, extra=command_flags(verb))
    return build(model, merge(below, typed), where=f"frazil {verb.name}")


def _run(verb: Verb, rest: list[str], config: Any, place: Place) -> int:
    module = verb.load()
    _limit_threads(config, place)
    if not getattr(module, "MAKES_JOB", True):
        _print_result(module.run(config, None))
        return 0
    with joined(place, config.device) as processes:
        return _run_job(verb, rest, config, processes)


def _run_job(verb: Verb, rest: list[str], config: Any, processes: Processes) -> int:
    from frazil.config import input_paths
    from frazil.engine.job import open_job

    # what a program reads from standard output must not be mixed with what a person reads
    stream = sys.stderr if getattr(config, "as_json", False) else sys.stdout
    command = shlex.join(["frazil", verb.name, *rest])
    job = open_job(verb.name, config, input_paths(config), command, stream=stream, processes=processes)
    if job.finished:
        if processes.first:
            _tell_finished(job, stream)
        return 0
    if job.resumed:
        job.log(f"going on with {job.name}")
    with job:
        result = verb.load().run(config, job)
        job.result(result)
    if processes.first:
        _print_result(result)
    return 0


def _tell_finished(job: Any, stream: Any) -> None:
    from frazil.engine.job import read_status

    status = read_status(job.folder)
    stream.write(f"already done: {job.name} (--again runs it anew)\n")
    for word in ("made", "good", "next"):
        if word in status:
            stream.write(f"{word}  {status[word]}\n")
    _print_result(status.get("result"))


def _limit_threads(config: Any, place: Place) -> None:
    from frazil.engine.machine import threads_for_each, use_threads

    # a launcher allows each process one thread unless told otherwise; here they share the cores
    share = threads_for_each(place.local_count) if place.local_count > 1 else None
    use_threads(getattr(config, "threads", None) or share)


def _print_result(result: Any) -> None:
    """Prints what a verb returned: text as it is, anything else as JSON."""
    if result is None:
        return
    from frazil.engine.files import without_nan

    text = result if isinstance(result, str) else json.dumps(without_nan(result), indent=2)
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no reason given"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""One description of a verb's settings: it becomes command-line flags, TOML sections and the reference page.

A verb declares its settings once::

    class Train(StageConfig):
        epochs: int = setting(20, "passes over the particles", ge=1)

    class Config(JobConfig):
        particles: Path = argument("particle stack with poses (.star, .cs)")
        train: Train = Train()

and gets ``frazil VERB particles.star --train.epochs 30``, a ``[VERB.train]`` table in preset files, and a section in
the manual. Values are checked where they enter; afterwards a config is frozen and cannot be wrong.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from frazil.errors import InputError

_REQUIRED = object()


def setting(default: Any, help: str, *, flag: str | None = None, **limits: Any) -> Any:
    """A setting with a default: the flag ``--name-of-field``.

    Args:
        default: the value when neither a flag, a preset nor a file gives one. Where ``None`` is a possible value it
            must be the default, because TOML cannot write it down.
        help: what it means, with its unit, in one line.
        flag: the flag's name where it cannot be the field's (``as_json`` is ``--json``: pydantic owns ``json``).
        limits: pydantic's limits on the value, such as ``ge=1`` or ``lt=1``.
    """
    return Field(default=default, description=help, json_schema_extra={"flag": flag} if flag else None, **limits)


def argument(help: str, default: Any = _REQUIRED, **limits: Any) -> Any:
    """A positional argument of the verb, required unless it has a default."""
    value = {} if default is _REQUIRED else {"default": default}
    return Field(description=help, json_schema_extra={"positional": True}, **value, **limits)


class StageConfig(BaseModel):
    """The settings of a verb, or one nested table of them. Frozen; unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobConfig(StageConfig):
    """The settings of every verb that makes a job folder."""

    out: Path | None = setting(None, "folder of the job (otherwise VERB/J001, VERB/J002, ... in the current folder)")
    again: bool = setting(False, "run even when the same inputs and settings have been run before")
    seed: int = setting(0, "seed of all random numbers", ge=0)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute; auto takes a GPU when there is one")
    threads: int | None = setting(None, "number of CPU threads (all cores unless given)", ge=1)
    memory: float | None = setting(None, "largest memory to use, in GB (what is free unless given)", gt=0)
    tensorboard: bool = setting(False, "write TensorBoard events beside metrics.jsonl")


# settings that say how a job runs but not what comes out of it: two jobs that differ only here are the same job
RUN_ONLY = frozenset({"out", "again", "threads", "memory", "tensorboard"})


def is_positional(model: type[BaseModel], name: str) -> bool:
    """Whether the field was declared with `argument`."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and extra.get("positional") is True


def flag_name(model: type[BaseModel], name: str) -> str:
    """What the field is called on the command line, without the two hyphens."""
    extra = model.model_fields[name].json_schema_extra
    given = extra.get("flag") if isinstance(extra, dict) else None
    return given if isinstance(given, str) else name.replace("_", "-")


def build(model: type[StageConfig], values: Mapping[str, Any], *, where: str | Path) -> Any:
    """Checks values and makes the config.

    Raises:
        InputError: naming the first wrong, unknown or missing setting and `where` it was given.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(error.errors()[0], model, where) from None


def check_layer(model: type[StageConfig], values: Mapping[str, Any], *, where: str | Path) -> None:
    """Checks settings that are not complete: those of a preset or a file.

    Raises:
        InputError: naming the first wrong or unknown setting.
    """
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        wrong = [one for one in error.errors() if one["type"] != "missing"]
        if wrong:
            raise _explain(wrong[0], model, where) from None


def _explain(first: Any, model: type[BaseModel], where: str | Path) -> InputError:
    """Turns pydantic's account of a wrong value into one line."""
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        near = get_close_matches(path[-1], list(owner.model_fields), 1)
        known = ", ".join(owner.model_fields)
        remedy = f"did you mean {near[0]}?" if near else f"the settings here are {known}"
        return InputError(f"unknown setting {name}", where=where, remedy=remedy)
    if first["type"] == "missing":
        return InputError(f"{name} is missing", where=where, remedy=f"give {name}")
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a rule between several settings, which speaks for itself
        return InputError(reason.rstrip("."), where=where)
    reason = reason[0].lower() + reason[1:]
    return InputError(f"{name} = {first['input']!r} cannot be used: {reason}", where=where)


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for name in path:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return model


# ---------------------------------------------------------------------------------------------------------- presets


def preset_names(verb: str | None = None) -> list[str]:
    """The presets that ship with frazil, or those that say something about one verb."""
    folder = resources.files("frazil") / "presets"
    files = (
        sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
        if folder.is_dir()
        else []
    )
    return [f.name[:-5] for f in files if verb is None or verb in tomllib.loads(f.read_text())]


def read_preset(name: str, verb: str) -> dict[str, Any]:
    """The settings a preset gives to a verb: the section ``[verb]`` of ``frazil/presets/name.toml``.

    Raises:
        InputError: when there is no such preset, or it says nothing about this verb.
    """
    if name not in preset_names(verb):
        known = ", ".join(preset_names(verb)) or "none yet"
        near = get_close_matches(name, preset_names(verb), 1)
        remedy = f"did you mean {near[0]}?" if near else f"presets of {verb}: {known}"
        reason = f"says nothing about {verb}" if name in preset_names() else "does not exist"
        raise InputError(f"preset {name!r} {reason}", where="--preset", remedy=remedy)
    return tomllib.loads((resources.files("frazil") / "presets" / f"{name}.toml").read_text())[verb]


def read_config_file(path: Path, verb: str) -> dict[str, Any]:
    """The settings of a verb in a TOML file: its section ``[verb]``, or the ``[verb]`` of a job's ``job.toml``.

    Raises:
        InputError: when the file is missing, is not TOML, or has no such section.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=path, remedy="check the path given to --config")
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a TOML file: {error}", where=path, remedy="mend that line") from None
    section = content.get(verb)
    if not isinstance(section, dict):
        raise InputError(f"there is no section [{verb}]", where=path, remedy=f"put the settings below a line [{verb}]")
    return section


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of two layers, table by table; the upper one wins."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = merge(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
    return merged


def input_paths(config: StageConfig) -> list[Path]:
    """The files and folders that a config names, except where the job goes."""
    paths: list[Path] = []
    for name, value in config:
        if isinstance(value, StageConfig):
            paths += input_paths(value)
        elif name != "out":
            items = value if isinstance(value, (list, tuple)) else [value]
            paths += [item for item in items if isinstance(item, Path)]
    return paths


def resolved_toml(config: StageConfig, verb: str) -> str:
    """All settings of a config as a TOML section that `read_config_file` reads back. `None` is left out."""
    import tomlkit

    document = tomlkit.document()
    document.add(verb, tomlkit.item(plain_values(config)))
    return tomlkit.dumps(document)


def plain_values(config: StageConfig, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The settings as strings, numbers, lists and dictionaries, without those that are `None` or in `leave_out`."""
    return config.model_dump(mode="json", exclude_none=True, exclude=set(leave_out))

"""Command-line flags of a config model: what may be typed, what was typed, and the page that explains it.

tyro lays out the flags and the help page; every value is read as text and checked by the model itself, so a flag, a
preset and a TOML file accept the same values and complain in the same words.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import tyro
from pydantic import BaseModel
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from frazil.config import JobConfig, StageConfig, flag_name, is_positional, setting
from frazil.errors import InputError

_ABSENT = "\0absent"  # cannot be typed in a shell, so it means that nothing was


class CommandFlags(StageConfig):
    """Flags that belong to the command line and not to a verb's settings."""

    config: Path | None = setting(None, "TOML file with a section for this verb, such as a job.toml; flags win over it")
    debug: bool = setting(False, "show the traceback of an error")


class PresetFlags(CommandFlags):
    """The same for a verb that has presets."""

    preset: str | None = setting(None, "published method to start from; explicit flags win over it")


@dataclass(frozen=True)
class Flag:
    """One thing that may be typed: `name` as typed (``--train.epochs``), or the field's name when positional."""

    name: str
    positional: bool
    help: str
    kind: str
    default: str


def flags_of(model: type[BaseModel], prefix: str = "") -> Iterator[Flag]:
    """Every flag and positional argument of a config, nested ones too."""
    hints = get_type_hints(model)
    for name, field in model.model_fields.items():
        if _is_model(hints[name]):
            yield from flags_of(hints[name], f"{prefix}{flag_name(model, name)}.")
            continue
        positional = is_positional(model, name)
        typed = name if positional else f"--{prefix}{flag_name(model, name)}"
        default = "required" if field.is_required() else _shown(field.default)
        yield Flag(typed, positional, field.description or "", _kind(hints[name]), default)


def parse_flags(
    model: type[StageConfig],
    argv: Sequence[str],
    *,
    prog: str,
    below: Mapping[str, Any],
    extra: type[CommandFlags] = CommandFlags,
) -> dict[str, Any]:
    """What was typed, as nested values that are still text; what was not typed is not there.

    Args:
        extra: flags of the command line itself, whose values are left out.
        below: settings from presets and files, over which the flags win. A boolean flag turns over what it finds there.

    Raises:
        InputError: for an unknown flag, a surplus argument, or a flag without its value.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint), _rules(model, below, extra):
            values, rest = tyro.cli(model, args=list(argv), prog=prog, return_unknown_args=True)
    except SystemExit:
        raise InputError(_one_line(complaint.getvalue()), remedy=f"see {prog} --help") from None
    if rest:
        raise _unknown((model, extra), rest, prog)
    typed = _typed(cast(dict[str, Any], values))
    return {name: value for name, value in typed.items() if name not in extra.model_fields}


def help_page(
    model: type[StageConfig],
    manual: str,
    *,
    prog: str,
    below: Mapping[str, Any] | None = None,
    extra: type[CommandFlags] = CommandFlags,
) -> str:
    """The text of ``frazil VERB --help``: usage, the manual page, the arguments, the flags with units and defaults."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit), _rules(model, below or {}, extra):
        tyro.cli(model, args=["--help"], prog=prog, description="\0")
    usage, _, tables = page.getvalue().partition("\0")
    lines = f"{usage.rstrip()}\n\n{reflow(manual)}\n\n {tables.lstrip()}".splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def reflow(text: str, width: int | None = None) -> str:
    """Fills paragraphs to the terminal's width; indented ones (commands to type) stay as they are."""
    width = width or min(shutil.get_terminal_size().columns, 100)
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text).replace("``", "`"))
    return "\n\n".join(p if p.startswith(" ") else textwrap.fill(" ".join(p.split()), width) for p in paragraphs)


def _rules(top: type[StageConfig], below: Mapping[str, Any], extra: type[StageConfig]) -> ConstructorRegistry:
    """tyro's rules for our models: values are text, positional fields are positional, defaults come from `below`."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not _is_model(info.type):
            return None
        if info.type is top:
            fields = (*_fields(top, below), *_fields(extra, {}))
        else:
            given = info.default if isinstance(info.default, BaseModel) else info.type.model_construct()
            fields = tuple(_fields(info.type, {name: getattr(given, name) for name in given.model_fields_set}))
        return StructConstructorSpec(instantiate=dict, fields=fields)

    return registry


def _fields(model: type[BaseModel], below: Mapping[str, Any]) -> Iterator[StructFieldSpec]:
    hints = get_type_hints(model)
    # tyro lists what it is given in this order: what is particular to the verb comes before what all verbs share
    own = [n for n in model.model_fields if n not in JobConfig.model_fields]
    for name in [*own, *(n for n in model.model_fields if n in JobConfig.model_fields)]:
        field, kind = model.model_fields[name], hints[name]
        if _is_model(kind):
            given = below.get(name, {})
            given = given if isinstance(given, BaseModel) else kind.model_construct(**given)
            yield StructFieldSpec(name=flag_name(model, name), type=kind, default=given, helptext="")
            continue
        required = field.is_required() and name not in below
        value = below.get(name, None if field.is_required() else field.default)
        if kind is bool:
            hint = "(default: yes)" if value else ""
            text, default = (bool if value else tyro.conf.FlagCreatePairsOff[bool]), bool(value)
        else:
            text, default = _as_text(kind)
            hint = "(required)" if required else f"(default: {_shown(value)})" if _shown(value) else ""
        flag = None if is_positional(model, name) else flag_name(model, name)
        metavar = None if kind is bool else name.upper() if flag is None and "{" not in _kind(kind) else _kind(kind)
        marked: Any = Annotated[text, tyro.conf.arg(name=flag, metavar=metavar, help_behavior_hint=hint)]
        if is_positional(model, name):
            marked: Any = Annotated[marked, tyro.conf.Positional]
        yield StructFieldSpec(name=name, type=marked, default=default, helptext=field.description or "")


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _bare(kind: Any) -> Any:
    """The type without `| None`."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [k for k in get_args(kind) if k is not types.NoneType]
        return kinds[0] if len(kinds) == 1 else str
    return kind


def _as_text(kind: Any) -> tuple[Any, Any]:
    """The same shape of text, and the value that stands for nothing typed."""
    kind = _bare(kind)
    if get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis:
        count = len(get_args(kind))
        return tuple[(str,) * count], (_ABSENT,) * count  # type: ignore[misc]
    if get_origin(kind) in (tuple, list):
        return tuple[str, ...], (_ABSENT,)
    return str, _ABSENT


def _kind(kind: Any) -> str:
    """What to type, as help pages show it: PATH, INT, NUMBER, TEXT, {auto,cpu,cuda}."""
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(kind)) + "}"
    if get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis:
        return " ".join(_kind(k) for k in get_args(kind))
    if get_origin(kind) in (tuple, list):
        return f"{_kind(get_args(kind)[0])} ..."
    return {Path: "PATH", int: "INT", float: "NUMBER", bool: "FLAG"}.get(kind, "TEXT")


def _shown(value: Any) -> str:
    """A default as it would be typed; nothing for `None` and `False`."""
    if value is None or value is False:
        return ""
    return (
        " ".join(map(str, value))
        if isinstance(value, (list, tuple))
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            if inner := _typed(value):
                typed[name] = inner
        elif value != _ABSENT and not (isinstance(value, tuple) and value and value[0] == _ABSENT):
            typed[name] = value
    return typed


def _unknown(models: Sequence[type[BaseModel]], rest: Sequence[str], prog: str) -> InputError:
    known = [f.name for m in models for f in flags_of(m) if not f.positional]
    flags = [token.partition("=")[0] for token in rest if token.startswith("-")]
    if not flags:
        return InputError(f"{rest[0]!r} is one argument too many", remedy=f"see {prog} --help")
    # what comes after the last dot may be right where the table's name is missing
    near = get_close_matches(flags[0], known, 1) or [k for k in known if k.endswith("." + flags[0].lstrip("-"))]
    advice = f"did you mean {near[0]}?" if near else f"see {prog} --help"
    return InputError(f"unknown flag {flags[0]}", remedy=advice)


def _one_line(complaint: str) -> str:
    """The message among tyro's several lines: what stands between the first rule and the second."""
    lines = [line.strip("│ ") for line in complaint.splitlines()]
    rules = [i for i, line in enumerate(lines) if set(line) & {"-", "─"} and len(set(line) - set("╭╮╰╯")) == 1]
    message = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else []
    text = " ".join(message).strip().replace(" Expected 1 values.", "").rstrip(".")
    return text[:1].lower() + text[1:] if text else "these arguments cannot be read"

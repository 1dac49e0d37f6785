"""Every flag of every verb is exercised by a test: a new flag fails here until one types it.

Which flags there are is read from the config models. Which are typed is read from the sources of the tests: a flag
counts for a verb when both stand in one function (with the tables that it names), as in ``run_frazil("decode", "--box",
8)``, or when the flag stands in a file that speaks of no other verb. Flags that all jobs share are the engine's and are
tested once, with any verb.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from frazil.cli import VERBS, Verb, command_flags
from frazil.config import JobConfig
from frazil.flags import flags_of

TESTS = Path(__file__).resolve().parent
NAMES = {verb.name for verb in VERBS}
TYPED = re.compile(r"(?<!\S)--[a-z][a-z0-9.-]*")


def words_of(node: ast.AST) -> tuple[set[str], set[str]]:
    """The verbs and the flags in a piece of a test's source."""
    verbs, flags = set(), set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            flags |= set(TYPED.findall(part.value))
            verbs |= {word for word in part.value.split() if word in NAMES} if len(part.value) < 400 else set()
        elif isinstance(part, ast.Name) and part.id in NAMES:  # a function of the test that types the verb
            verbs.add(part.id)
    return verbs, flags


def without_docstrings(module: ast.Module) -> Iterator[ast.AST]:
    """The top-level statements of a file; prose in docstrings types nothing."""
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) and len(node.body) > 1:
            node.body = node.body[1:]
    yield from module.body[1:] if ast.get_docstring(module) else module.body


def assigned(node: ast.AST) -> list[str]:
    """The names that a statement gives values to."""
    return (
        [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []
    )


@cache
def typed_flags() -> dict[str, set[str]]:
    """The flags that tests type, by verb; those typed with any verb under the empty name."""
    typed: dict[str, set[str]] = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__):
            continue
        statements = list(without_docstrings(ast.parse(path.read_text())))
        tables = {name: words_of(node)[1] for node in statements for name in assigned(node)}
        pieces = []
        for node in statements:
            verbs, flags = words_of(node)
            used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            pieces.append((verbs, flags.union(*(tables[name] for name in used & set(tables)))))
        spoken = {verb for verbs, _ in pieces for verb in verbs}
        for verbs, flags in pieces:
            for verb in verbs or (spoken if len(spoken) == 1 else set()):
                typed[verb] |= flags
            typed[""] |= flags
    return typed


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_flag_is_typed_by_a_test(verb: Verb) -> None:
    config = verb.load().Config
    shared = {flag.name for model in (JobConfig, command_flags(verb)) for flag in flags_of(model)}
    untested = []
    for flag in flags_of(config):
        if flag.positional:
            continue
        no = re.sub(r"(--(?:.*\.)?)([^.]+)$", r"\1no-\2", flag.name)
        typed = typed_flags()["" if flag.name in shared else verb.name]
        if not typed & {flag.name, no}:
            untested.append(flag.name)
    assert not untested, f"no test types these flags of frazil {verb.name}"


def test_the_flags_of_the_command_line_itself_are_typed_by_a_test() -> None:
    own = {flag.name for verb in VERBS for flag in flags_of(command_flags(verb))}
    assert own | {"--help", "--version"} <= typed_flags()[""]


def test_every_verb_with_an_argument_is_run_by_a_test() -> None:
    assert set(typed_flags()) >= NAMES


def test_every_flag_says_what_it_means() -> None:
    for verb in VERBS:
        for flag in flags_of(verb.load().Config):
            assert flag.help, f"frazil {verb.name} {flag.name} has no help"
            assert not flag.help.endswith("."), f"frazil {verb.name} {flag.name}: help is no sentence"

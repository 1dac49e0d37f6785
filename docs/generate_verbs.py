"""Write a page per verb from what `frazil VERB --help` is made of: the module's docstring and its settings."""

from __future__ import annotations

import inspect
from pathlib import Path

from frazil.cli import VERBS, Verb
from frazil.config import JobConfig, preset_names
from frazil.flags import Flag, flags_of


def write_pages(folder: Path) -> None:
    """Write folder/VERB.md for every verb, and folder/index.md."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    for verb in VERBS:
        (folder / f"{verb.name}.md").write_text(page(verb))
    lines = ["# Verbs", "", "`frazil VERB ...`; every flag of a verb is also a key of its TOML section.", ""]
    for group in dict.fromkeys(verb.group for verb in VERBS):
        verbs = [verb for verb in VERBS if verb.group == group]
        lines += [f"{group}", *(f": [`frazil {verb.name}`]({verb.name}.md): {verb.line}\n" for verb in verbs), ""]
    toctree = ["```{toctree}", ":hidden:", "", *(verb.name for verb in VERBS), "```", ""]
    (folder / "index.md").write_text("\n".join(lines + toctree))


def page(verb: Verb) -> str:
    """The manual page of a verb as Markdown."""
    module = verb.load()
    manual = _double_ticks_to_single(inspect.cleandoc(module.__doc__ or verb.line))
    flags = list(flags_of(module.Config))
    lines = [f"# frazil {verb.name}", "", _indented_as_code(manual), ""]
    presets = preset_names(verb.name)
    if presets:
        lines += [f"Presets (`--preset`): {', '.join(f'`{name}`' for name in presets)}.", ""]
    shared = {flag.name for flag in flags_of(JobConfig)} if issubclass(module.Config, JobConfig) else set()
    sections: dict[str, list[Flag]] = {"Arguments": [flag for flag in flags if flag.positional]}
    for flag in flags:
        if not flag.positional and flag.name not in shared:
            table = flag.name.removeprefix("--").rpartition(".")[0]
            sections.setdefault(f"Settings `{table}`" if table else "Settings", []).append(flag)
    sections["Settings of every job"] = [flag for flag in flags if flag.name in shared]
    for title, entries in sections.items():
        if entries:
            lines += [f"## {title}", "", *_entries(entries), ""]
    return "\n".join(lines)


def _entries(flags: list[Flag]) -> list[str]:
    lines = []
    for flag in flags:
        kind = "" if flag.kind == "FLAG" else f" {flag.kind}"
        default = {"": "", "required": " (required)"}.get(flag.default, f" (default: `{flag.default}`)")
        help_text = _double_ticks_to_single(flag.help).replace("<", "\\<")
        lines += [f"`{flag.name}{kind}`", f": {help_text}{default}", ""]
    return lines


def _double_ticks_to_single(text: str) -> str:
    return text.replace("``", "`")


def _indented_as_code(text: str) -> str:
    """Indented paragraphs of a docstring are commands to type."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith("    "):
            block = "```\n" + inspect.cleandoc(block) + "\n```"
        blocks.append(block)
    return "\n\n".join(blocks)


if __name__ == "__main__":
    write_pages(Path(__file__).parent / "verbs")

"""The manual in docs/ is made of the same words as --help."""

import sys
from pathlib import Path

import pytest

from frazil.cli import VERBS
from frazil.flags import flags_of

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

import generate_verbs  # noqa: E402 - found in docs/


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_page_of_a_verb_explains_every_flag_that_its_help_lists(verb):
    page = generate_verbs.page(verb)
    for flag in flags_of(verb.load().Config):
        assert f"`{flag.name}" in page


def test_index_of_verbs_lists_all_of_them_and_forgets_removed_ones(tmp_path):
    (tmp_path / "gone.md").write_text("a verb of an earlier version")
    generate_verbs.write_pages(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.md")} == {"index", *(verb.name for verb in VERBS)}
    index = (tmp_path / "index.md").read_text()
    assert all(f"{verb.name}.md" in index for verb in VERBS)


def test_readme_shows_only_verbs_that_exist():
    readme = (DOCS.parent / "README.md").read_text()
    typed = {line.split()[1] for line in readme.splitlines() if line.startswith("frazil ")}
    assert typed <= {verb.name for verb in VERBS}
    assert typed

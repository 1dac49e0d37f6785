"""The ChimeraX command file opens what lies beside it."""

from __future__ import annotations

from pathlib import Path

from frazil.analyze.chimerax import chimerax_script


def _script(tmp_path: Path) -> list[str]:
    maps = [tmp_path / "outputs" / f"state_{k}.mrc" for k in range(3)]
    film = {"PC 1": [tmp_path / "a folder" / f"pc1_{i}.mrc" for i in range(2)]}
    return chimerax_script(maps, tmp_path, 0.25, colours=["#0072B2", "#D55E00"], series=film).splitlines()


def test_paths_are_relative_so_that_the_folder_can_be_moved(tmp_path: Path) -> None:
    script = _script(tmp_path)
    assert "open outputs/state_0.mrc id 1" in script
    assert str(tmp_path) not in "\n".join(script)


def test_paths_with_spaces_are_quoted(tmp_path: Path) -> None:
    assert 'open "a folder/pc1_0.mrc" "a folder/pc1_1.mrc" vseries true id 4' in _script(tmp_path)


def test_every_map_has_the_level_and_its_colour(tmp_path: Path) -> None:
    script = _script(tmp_path)
    assert "volume #2 style surface step 1 level 0.25 color #D55E00" in script
    assert "volume #3 style surface step 1 level 0.25 color #0072B2" in script
    assert "hide #2-3 models" in script


def test_every_line_is_a_command_or_a_comment(tmp_path: Path) -> None:
    commands = {"set", "lighting", "graphics", "open", "volume", "hide", "view", "#"}
    assert {line.split()[0] for line in _script(tmp_path)} <= commands

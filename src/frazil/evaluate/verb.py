"""`frazil evaluate`: from files to figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frazil.data.mrc import read_volume
from frazil.data.truth import Truth, read_truth
from frazil.errors import InputError
from frazil.evaluate.fsc import area_under, benchmark_curve, curve_figures, masked_correlation, perfect_area
from frazil.numerics.shells import shell_correlation
from frazil.numerics.symmetry import point_group
from frazil.physics.grid import Grid

if TYPE_CHECKING:
    from frazil.evaluate import Config

_MAPS = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz")


def is_map(path: Path) -> bool:
    """Whether a path is meant as a density map."""
    return path.name.lower().endswith(_MAPS)


def evaluate(config: Config) -> dict[str, Any]:
    """All figures that the two inputs allow.

    Raises:
        InputError: if a file is missing, or the two do not belong together.
    """
    if config.truth is None:
        raise InputError(
            "there is nothing to compare with", where="--truth", remedy="give a simulate job, a map or particles"
        )
    for path in (config.result, config.truth):
        if not path.exists():
            raise InputError("no such file or folder", where=path, remedy="check the path")
    symmetry = _point_group(config.symmetry)
    if is_map(config.truth):
        _refuse_list(config, "maps have no particles")
        result = config.result if is_map(config.result) else outputs_of(config.result) / "consensus.mrc"
        return compare_maps(result, config.truth, config.mask, config.align)
    from frazil.evaluate.reference import evaluate_against_reference, is_table

    if is_table(config.truth):
        if config.align:
            raise InputError(
                "poses are always aligned, and there is no map here", where="--align", remedy="leave it out"
            )
        return evaluate_against_reference(config.result, config.truth, symmetry, config.particles)
    truth = read_truth(config.truth)
    if is_map(config.result):
        _refuse_list(config, "a map has no particles")
        return against_mean(config.result, truth, config.mask, config.align)
    from frazil.evaluate.reconstruction import evaluate_reconstruction

    return evaluate_reconstruction(
        outputs_of(config.result),
        truth,
        config.mask,
        symmetry,
        config.images,
        config.oracle,
        config.align,
        config.particles,
    )


def _refuse_list(config: Config, why: str) -> None:
    if config.particles is not None:
        raise InputError(why, where="--particles", remedy="leave it out")


def _point_group(name: str) -> Tensor:
    try:
        return point_group(name)
    except ValueError as error:
        raise InputError(str(error), where="--symmetry") from None


def outputs_of(folder: Path) -> Path:
    """The outputs of a job, given its folder or the outputs themselves."""
    return folder / "outputs" if (folder / "outputs").is_dir() else folder


def read_like(path: Path, grid: Grid) -> Tensor:
    """A map that must lie on a grid.

    Raises:
        InputError: if it has another box or pixel size.
    """
    values, found = read_volume(path)
    if found.box_size != grid.box_size or abs(found.pixel_size / grid.pixel_size - 1) > 0.01:
        raise InputError(
            f"{found.box_size} voxels at {found.pixel_size:g} Å, but {grid.box_size} at {grid.pixel_size:g} Å are compared",
            where=path,
            remedy="give maps on one grid",
        )
    return values


def compare_maps(result: Path, truth: Path, mask: Path | None, align: bool = False) -> dict[str, Any]:
    """Figures of one map against another on the same grid, under ``map``; with ``align``, those of ``alignment`` before."""
    if not result.exists():
        raise InputError("no such file", where=result, remedy="give a map, or a job that made one")
    first, grid = read_volume(result)
    second = read_like(truth, grid)
    aligned, figures = _aligned(first, second, grid, align)
    return figures | {"map": map_figures(aligned, second, grid, None if mask is None else read_like(mask, grid))}


def _aligned(result: Tensor, truth: Tensor, grid: Grid, align: bool) -> tuple[Tensor, dict[str, Any]]:
    """The result, in the frame of the truth when that is asked for, and the figures of its alignment."""
    if not align:
        return result, {}
    from frazil.evaluate.alignment import align_maps, alignment_figures

    found = align_maps(result, truth, grid)
    return found.frame.into_truth(result, grid), {"alignment": alignment_figures(found)}


def map_figures(result: Tensor, truth: Tensor, grid: Grid, mask: Tensor | None) -> dict[str, Any]:
    """FSC figures of two maps; with a mask the masked and corrected ones too."""
    n = grid.box_size
    curve = shell_correlation(result, truth)
    figures: dict[str, Any] = curve_figures(curve, grid.extent, n)
    figures["fsc_auc"] = area_under(benchmark_curve(result, truth), n)
    figures["perfect_fsc_auc"] = perfect_area(n)
    if mask is not None:
        found = masked_correlation(result, truth, mask)
        figures["masked"] = curve_figures(found.masked, grid.extent, n)
        figures["masked"]["fsc_auc"] = area_under(benchmark_curve(result, truth, mask), n)
        figures["corrected"] = curve_figures(found.corrected, grid.extent, n)
    figures["fsc"] = [round(float(value), 5) for value in curve]
    return figures


def true_volumes(truth: Truth) -> tuple[Tensor, Grid]:
    """The maps of the true states, stacked."""
    if not truth.volumes:
        raise InputError("the truth lists no volumes", where="truth.json", remedy="simulate again")
    first, grid = read_volume(truth.volumes[0])
    rest = [read_like(path, grid) for path in truth.volumes[1:]]
    return torch.stack([first, *rest]), grid


def mean_volume(volumes: Tensor, truth: Truth) -> Tensor:
    """The true states averaged by how many particles are in each: what a rigid reconstruction can find at best."""
    share = torch.bincount(torch.from_numpy(truth.state).long(), minlength=len(volumes)).to(volumes)
    return torch.einsum("s,szyx->zyx", share / share.sum(), volumes)


def against_mean(path: Path, truth: Truth, mask: Path | None, align: bool = False) -> dict[str, Any]:
    """A map against the mean of the true states, with figures as those of `compare_maps`."""
    from frazil.evaluate.maps import family_mask

    volumes, grid = true_volumes(truth)
    values = read_like(path, grid)
    chosen = family_mask(volumes) if mask is None else read_like(mask, grid)
    mean = mean_volume(volumes, truth)
    aligned, figures = _aligned(values, mean, grid, align)
    return figures | {"map": map_figures(aligned, mean, grid, chosen)}


def table(figures: dict[str, Any]) -> str:
    """The figures for reading: a block for each group, one line for each number. Curves and lists are left out."""
    lines: list[str] = []
    for group, values in figures.items():
        lines.append(group.replace("_", " "))
        flat = list(_flat(values))
        width = max((len(name) for name, _ in flat), default=0)
        lines += [f"  {name:<{width}}  {_shown(value)}" for name, value in flat]
    return "\n".join(lines)


def _flat(values: dict[str, Any], prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            yield prefix + name.replace("_", " "), value


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

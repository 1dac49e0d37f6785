"""Maps along paths through the latent cloud: principal components, the neighbour graph, straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frazil.analyze import decoding, pictures
from frazil.analyze.clustering import States
from frazil.analyze.components import Components
from frazil.analyze.trajectories import direct_path, graph_path
from frazil.engine.files import write_npy, write_text
from frazil.errors import InputError
from frazil.figures.section import Section

if TYPE_CHECKING:
    from frazil.analyze import Config
    from frazil.engine.job import Job
    from frazil.physics.ensemble import Ensemble
    from frazil.physics.grid import Grid

# graph paths have as many maps as particles: so many of them are decoded
MOST_ON_GRAPH = 40
# where the cloud is in pieces, the graph's limits on neighbours are doubled at most so many times
DOUBLINGS = 4


@dataclass(frozen=True)
class Traversal:
    """Latent points along a path, the files of their maps, and what the report says of them."""

    name: str
    path: np.ndarray
    files: list[Path]
    section: Section


def traverse(
    config: Config,
    job: Job,
    ensemble: Ensemble,
    latent: np.ndarray,
    components: Components,
    states: States,
    grid: Grid,
    look: pictures.Look,
) -> list[Traversal]:
    """Decode maps along every path asked for; the points of each are in `outputs/paths/`."""
    (job.outputs / "paths").mkdir(exist_ok=True)
    found = []
    for k in range(min(config.components, len(components.axes))):
        path = components.along(k, config.steps)
        volumes, files = _decoded(job, ensemble, f"pc{k + 1}", path, grid)
        places = components.project(path)[:, k]
        shown = pictures.traversal_section(k, volumes, places, float(components.fraction[k]), look, states.learnt)
        found.append(Traversal(f"motion along PC {k + 1}", path, files, shown))
    if config.graph is not None:
        anchors = anchor_rows("--graph", config.graph, states, len(latent))
        rows = connected_path(job, latent, anchors, config.most_neighbours, config.average_neighbours)
        write_text(job.outputs / "paths" / "graph_rows.txt", "".join(f"{row}\n" for row in rows))
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(MOST_ON_GRAPH, len(rows))).round().astype(int))]
        volumes, files = _decoded(job, ensemble, "graph", latent[chosen].astype(np.float64), grid)
        text = f"The shortest path through the neighbour graph by {len(rows)} particles, from anchor to anchor."
        shown = pictures.path_section("graph", "Along the graph", text, volumes, [str(row) for row in chosen], look)
        found.append(Traversal("path through the graph", latent[chosen].astype(np.float64), files, shown))
    if config.direct is not None:
        anchors = anchor_rows("--direct", config.direct, states, len(latent))
        path = direct_path(latent[anchors].astype(np.float64), config.direct_steps)
        volumes, files = _decoded(job, ensemble, "direct", path, grid)
        text = f"Straight lines in the latent between {len(anchors)} particles. Between them no particle may lie."
        names = [str(i) for i in range(len(path))]
        shown = pictures.path_section("direct", "Along straight lines", text, volumes, names, look)
        found.append(Traversal("straight path", path, files, shown))
    return found


def anchor_rows(flag: str, text: Path | str, states: States, count: int) -> list[int]:
    """Rows of the particles that a path joins: `states` for the centres of all states, else rows as `decode` takes them.

    Raises:
        InputError: fewer than two anchors, or rows that do not exist.
    """
    if text == "states":
        rows = states.rows.tolist()
    else:
        try:
            rows = decoding.read_particle_rows(str(text), count).tolist()
        except InputError as error:
            raise InputError(str(error).removeprefix("--particles: "), where=flag) from None
    if len(rows) < 2:
        raise InputError(
            f"a path joins at least two particles, {len(rows)} are given", where=flag, remedy="write for example 3,17,4"
        )
    return rows


def connected_path(job: Job, latent: np.ndarray, anchors: list[int], most: int, average: float) -> np.ndarray:
    """`graph_path`; where the cloud is in pieces, with limits doubled until it is not, which is said.

    Raises:
        InputError: no path even then.
    """
    for attempt in range(DOUBLINGS + 1):
        try:
            path = graph_path(latent, anchors, most * 2**attempt, average * 2**attempt)
        except InputError as error:
            if attempt == DOUBLINGS or "in pieces" not in str(error):
                raise
            continue
        if attempt:
            job.log(
                f"note: with {most} neighbours the cloud is in pieces; the path goes by up to {most * 2**attempt},"
                f" {average * 2**attempt:g} on average"
            )
        return path
    raise AssertionError("the last attempt returns or raises")


def _decoded(
    job: Job, ensemble: Ensemble, name: str, path: np.ndarray, grid: Grid
) -> tuple[list[np.ndarray], list[Path]]:
    files = [job.outputs / "volumes" / f"{name}_{i:03d}.mrc" for i in range(len(path))]
    volumes, _ = decoding.decode_to_files(ensemble, path, grid, files, job, name.replace("pc", "PC "))
    write_npy(job.outputs / "paths" / f"{name}.npy", path)
    return volumes, files

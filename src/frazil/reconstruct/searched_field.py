"""What is trained where poses are searched with a neural field: two networks, and a table of the poses found last.

At first the field is trained on images in random poses. Then, before images are trained on in an epoch of search, their poses
are searched against the field as it is (`inference.hierarchical_search`). Conformations come from the encoder: images are put
into a few cells by their latents, the field is decoded once for the centre of each cell, and the images of the cell are
compared with views of that volume.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from frazil.engine.processes import Processes
from frazil.engine.train import Task
from frazil.inference.hierarchical_search import Candidates, Hierarchy, linear_bands, search_poses, square_of_shifts
from frazil.inference.matching import CoarseImages
from frazil.numerics.masks import soft_sphere
from frazil.numerics.rotations import random_rotations
from frazil.numerics.spectrum_table import Table, TableLayout, table_layout, table_of_volumes
from frazil.physics.field import FieldNetwork
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.reconstruct.autoencoder import Autoencoder, Prepared
from frazil.reconstruct.coefficients import without_beam_tilt
from frazil.reconstruct.hierarchical_config import HierarchicalConfig

# epochs over which the last band of one rigid map rises
RIGID_RAMP = 25
# voxels of the box of a decoded volume beyond twice the band, and the width of the edge of the sphere around it, voxels
MARGIN, EDGE = 6, 2.0
# rounds of k-means, from one start
CLUSTER_ROUNDS = 20


@final
class RandomPoses(Task):
    """The field is trained on images in random poses and conformations, so that the first search has something to see.

    Rows beyond the last image begin with the first one again.

    Args:
        autoencoder: whose field is trained.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder

    def modules(self) -> dict[str, nn.Module]:
        """The field."""
        return {"field": self.autoencoder.field}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam."""
        rate = self.autoencoder.config.learning_rate
        return {"field": torch.optim.Adam(self.autoencoder.field.parameters(), lr=rate, fused=True)}

    def prepare(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> RandomPrepared:
        """Random rotations and conformations."""
        task = self.autoencoder
        noise = torch.randn(len(rows), task.latent_dim, generator=generator).to(task.device)
        rotation = random_rotations(len(rows), generator).to(task.device)
        return RandomPrepared(rotation, Prepared(noise, task.draw_coefficients(generator), None))

    def step(self, rows: Int[Tensor, " batch"], epoch: float, prepared: RandomPrepared) -> dict[str, Tensor]:
        """Mean squared error of the images of a batch."""
        task = self.autoencoder
        batch = task.batch(
            rows % len(task.images), pose=Pose(prepared.rotation, torch.zeros(len(rows), 2).to(task.device))
        )
        error = task.error(batch, prepared.others.noise, prepared.others.coefficients)
        return {"loss": error, "error": error.detach()}

    def name_of(self, row: int) -> str:
        """How a message calls a row."""
        return self.autoencoder.name_of(row % len(self.autoencoder.images))


@final
@dataclass(frozen=True)
class RandomPrepared:
    """What belongs to a batch in random poses: rotations, and all else that a batch has."""

    rotation: Float[Tensor, "batch 3 3"]
    others: Prepared

    def __getitem__(self, rows: slice) -> RandomPrepared:
        return RandomPrepared(self.rotation[rows], self.others[rows])


@final
class PosesFoundLast(nn.Module):
    """The poses of all particles as the last search left them: none has been found at first."""

    rotation: Tensor
    shift: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.eye(3).repeat(count, 1, 1))
        self.register_buffer("shift", torch.zeros(count, 2))

    def forward(self) -> Pose:
        """All of them; searches change them in place."""
        return Pose(self.rotation, self.shift)


@final
class SearchedAutoencoder(Task):
    """An autoencoder whose poses are searched every few epochs.

    Args:
        autoencoder: what is trained; its poses become those found. config: of the search. processes: share a search.
        workers: threads that decode and search.
    """

    def __init__(
        self, autoencoder: Autoencoder, config: HierarchicalConfig, processes: Processes, workers: int = 1
    ) -> None:
        self.autoencoder, self.config, self.processes, self.workers = autoencoder, config, processes, workers
        self.found = PosesFoundLast(len(autoencoder.images))
        autoencoder.pose = self.found()
        self.plane = autoencoder.images.grid.half_plane()
        self.shifts = square_of_shifts(config.shift_extent_px, config.shifts)

    @property
    def shift_spacing(self) -> float:
        """Pixels between neighbouring shifts of the last level."""
        return 2 * self.config.shift_extent_px / self.config.shifts / 2**self.config.subdivisions

    def modules(self) -> dict[str, nn.Module]:
        """The networks and the poses."""
        return self.autoencoder.modules() | {"found": self.found}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of the autoencoder."""
        return self.autoencoder.optimizers()

    def prepare(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Prepared:
        """What the autoencoder needs."""
        return self.autoencoder.prepare(rows, generator)

    def step(self, rows: Int[Tensor, " batch"], epoch: float, prepared: Prepared) -> dict[str, Tensor]:
        """The loss of the autoencoder at the poses found last."""
        return self.autoencoder.step(rows, epoch, prepared)

    def name_of(self, row: int) -> str:
        """How a message calls a row."""
        return self.autoencoder.name_of(row)

    def before(self, rows: Int[Tensor, " rows"], epoch: float) -> None:
        """Search the poses of the rows that are trained on next, in an epoch of search."""
        if int(epoch) % self.config.every:
            return
        own = self.processes.share(range(len(rows)))
        pose = self.best_poses(rows, epoch, slice(own.start, own.stop))
        self.found.rotation[rows] = self.processes.gather(pose.rotation)
        self.found.shift[rows] = self.processes.gather(pose.shift)

    def hierarchy(self, epoch: float) -> Hierarchy:
        """The levels of a search at an epoch."""
        config, top = self.config, self.plane.band
        ramp = config.ramp if isinstance(config.ramp, int) else (0 if self.autoencoder.latent_dim else RIGID_RAMP)
        risen = min(1.0, int(epoch) / ramp) if ramp else 1.0
        last = config.first_band + round(risen * (config.last_band - config.first_band))
        bands = linear_bands(min(config.first_band, top), min(last, top), config.subdivisions + 1)
        return Hierarchy(config.order, bands, config.kept, self.shifts)

    @torch.no_grad()
    def best_poses(self, rows: Int[Tensor, " rows"], epoch: float, own: slice) -> Pose:
        """The best poses of a slice of the rows; cells are those of all the rows."""
        task, hierarchy = self.autoencoder, self.hierarchy(epoch)
        cell, centres = cells_of(task.posterior(rows).mean.cpu(), self.config.cells)
        rows, cell = rows[own], cell[own]
        layout = table_layout(hierarchy.bands[-1])
        grid, size = task.images.grid, self.plane.within(hierarchy.bands[-1]).count
        wanted = cell.unique().tolist()
        with ThreadPoolExecutor(self.workers) as pool:
            tables = list(pool.map(lambda number: decoded_table(task.field, centres[number], layout), wanted))
        rotation, shift = torch.empty(len(rows), 3, 3), torch.empty(len(rows), 2)
        for number, table in zip(wanted, tables, strict=True):
            inside = torch.nonzero(cell == number)[:, 0]
            images, transfer = without_beam_tilt(task.images, task.optics, rows[inside], self.plane)
            # the origin carries the mean of the image, which standardisation has set
            shown = (self.plane.radius > 0)[:size]
            coarse = CoarseImages(torch.view_as_real(images[:, :size] * shown), transfer[:, :size] * shown)
            best: Candidates = search_poses(coarse, table, layout, self.plane, hierarchy)
            rotation[inside], shift[inside] = best.rotation[:, 0], best.shift[:, 0] * grid.pixel_size
        return Pose(rotation, shift)


def cells_of(
    latent: Float[Tensor, "rows latent"], count: int
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "cells latent"]]:
    """The cell of each latent, and the centres of the cells: k-means."""
    count = min(count, len(latent), 1 if latent.shape[1] == 0 else count)
    if count == 1:
        return torch.zeros(len(latent), dtype=torch.int64), latent.mean(0, keepdim=True)
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init="auto", max_iter=CLUSTER_ROUNDS, random_state=0).fit(latent.double().numpy())
    cell = torch.from_numpy(found.labels_).to(torch.int64)
    centres = torch.from_numpy(found.cluster_centers_).to(latent.dtype)
    return cell, centres


def decoded_table(network: FieldNetwork, latent: Float[Tensor, " latent"], layout: TableLayout) -> Table:
    """The spectrum of the field at one conformation, out to a band, in the unit of standardised images.

    The field is decoded on the frequencies of the smallest box of the same extent, and interpolated from there on.
    """
    full = network.grid
    side = 2 * layout.band + MARGIN
    small = Grid(side, full.extent / side)
    with torch.no_grad():
        volume = network.density(latent.to(network.frequencies)).voxels(small).cpu()
    unit = float(network.amplitude) * (full.pixel_size / small.pixel_size) ** 3
    return table_of_volumes((volume / unit * soft_sphere(side, side / 2 - EDGE, EDGE))[None], layout)

"""What a learnt basis leaves in a folder, and what is said and noted while it is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from frazil.data.ensemble import save_ensemble
from frazil.engine.files import write_npy, write_text
from frazil.physics.basis import BasisEnsemble
from frazil.physics.grid import Grid
from frazil.reconstruct.basis import BasisLearner
from frazil.reconstruct.basis_state import BasisState

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.engine.metrics import Metrics
    from frazil.engine.processes import Processes


def tell(job: Job, metrics: Metrics, grid: Grid, name: str, state: BasisState) -> None:
    """A line of metrics for every pass, a line of the log for every decision."""
    what, _, shell = name.partition(" to shell ")
    if shell:
        line = {
            "step": len(state.evidence),
            "stage": what,
            "resolution": round(grid.resolution_of(int(shell)), 4),
            "evidence": state.evidence[-1],
            "directions": state.halves.a.shape[0] - 1,
        }
        metrics.add(line)
    if name == "number of directions":
        for count, (gain, error) in enumerate(state.gains):
            job.log(f"{count} latent coordinates: {gain:+.3f} ± {error:.3f} nats per image of the other half")
        job.log(f"latent coordinates kept: {state.halves.a.shape[0] - 1}")
    if name == "states side by side":
        job.log(f"{state.halves.a.shape[0]} states are told apart by the images")
    if name == "landmarks":
        job.log(f"{state.halves.a.shape[0] - 1} directions of change along the motion")


def write_gains(state: BasisState, folder: Path, processes: Processes) -> None:
    """What each number of latent coordinates explains of an image of the other half, as CSV: nats over a rigid map."""
    if not state.gains or not processes.first:
        return
    rows = [f"{count},{gain:.6f},{error:.6f}" for count, (gain, error) in enumerate(state.gains)]
    text = "\n".join(("latent_coordinates,gain,error", *rows)) + "\n"
    write_text(folder / "latent_coordinates.csv", text)


def write_results(learner: BasisLearner, state: BasisState, folder: Path) -> tuple[str, Int[Tensor, " images"] | None]:
    """Latents of all particles in the order of the stack, the ensemble of both halves together, and of each.

    Returns:
        How good they are, in a few words, and the likeliest discrete state of every image in working order, where there are
        states. A meeting of the processes; the first one writes.
    """
    together = learner.together(state)
    found = learner.latents(state, together)
    order = torch.argsort(learner.images.order)
    # written in standard errors of one image: distances say what images can tell, whatever is done with them later
    latent = found.mean[order] * found.unit
    spread = found.covariance[order] * found.unit[:, None] * found.unit
    told = latent.var(0) / (latent.var(0) + spread.diagonal(dim1=1, dim2=2).mean(0))
    good = f"{latent.shape[1]} latent coordinates, the surest known to {float(told.max()):.0%} of its variance"
    component = None if found.component is None else found.component.argmax(1)
    if not learner.images.processes.first:
        return good, component
    write_npy(folder / "latent.npy", latent.numpy())
    write_npy(folder / "latent_covariance.npy", spread.numpy())
    write_npy(folder / "contrast.npy", state.halves.scale[order, 0].numpy())
    if found.component is not None and component is not None:
        write_npy(folder / "component_probability.npy", found.component[order].numpy())
        write_npy(folder / "component.npy", component[order].numpy())
    grid = learner.images.grid
    for name, volumes in (("", together), ("half_a", state.halves.a), ("half_b", state.halves.b)):
        interpolation = None if state.manifold is None else state.manifold.interpolation
        # on the box they were learnt on, which holds all that they are. Its spectra are those of the whole box: with fewer
        # voxels to sum over, values are as much larger than those of the density
        ensemble = BasisEnsemble(volumes * (volumes.shape[-1] / grid.box_size) ** 3, grid, interpolation)
        save_ensemble(folder / name, ensemble.in_units(found.unit))
    return good, component

"""Look at a reconstruction: conformations, states, maps along the motions, and one report.

    frazil analyze reconstruct/J002

With an ensemble, the latent coordinates are taken apart: principal components; states by k-means, whose centres are
real particles; a UMAP when there are more than two latent coordinates. Maps are decoded at the centre of every state
and along the first principal components, from the 5th to the 95th percentile of the particles. Of a rigid
reconstruction the report shows the map, its FSC and the viewing directions.

Writes `outputs/states.star` (every input column and `frazilState`), `outputs/states/state_000.star` and so on (the
particles of one state), `outputs/volumes/state_000.mrc` and `pc1_000.mrc` and so on, `outputs/pca.npy`,
`outputs/umap.npy`, `outputs/centres.npy`, `report.html`, `figures/`, and `open.cxc` for ChimeraX.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frazil.config import JobConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class Config(JobConfig):
    """Settings of `frazil analyze`."""

    job: Path = argument("folder of a reconstruct job")
    clusters: int = setting(10, "number of states (k-means clusters of the latent coordinates)", ge=1)
    components: int = setting(2, "number of principal components along which maps are decoded", ge=0)
    steps: int = setting(10, "maps along each component, from the 5th to the 95th percentile", ge=2)
    umap: Literal["auto", "always", "never"] = setting(
        "auto", "UMAP of the latent: auto makes one of 3 coordinates and more"
    )
    box: int | None = setting(
        None, "voxels along each side of the decoded maps; fewer than the job's are larger voxels"
    )
    level: float | None = setting(
        None, "contour level of the surfaces, in map units; chosen from the maps when not given"
    )


def run(config: Config, job: Job) -> None:
    """Analyse the reconstruction that the configuration names."""
    from frazil.analyze.analyze_job import run_analyze

    run_analyze(config, job)

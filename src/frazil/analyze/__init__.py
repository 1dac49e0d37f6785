"""Look at a reconstruction: conformations, states, maps along the motions, and one report.

    frazil analyze reconstruct/J002
    frazil analyze reconstruct/J002 --method gmm --graph states --landscape.maps 500
    frazil analyze reconstruct/J002 --keep "pc1 > 0.5 and state in 1, 3"

With an ensemble, the latent coordinates are taken apart: principal components; states, whose centres are real particles;
a UMAP when there are more than two latent coordinates. Maps are decoded at the centre of every state, along the first
principal components from the 5th to the 95th percentile of the particles, and, if asked, from particle to particle on the
shortest path through the cloud (`--graph`) or on a straight line (`--direct`). Of a rigid reconstruction the report shows
the map, its FSC and the viewing directions. The folder of one discrete state (JOB/outputs/component_001, where
`--basis.within` made it) is opened as a job of its own, and that of a finished cryoDRGN run (config.yaml, weights, z) can be
given in place of a job.

States are worth what their half-maps say. Where the job holds ensembles of both half-sets, every state is decoded from
both, with its FSC, resolution and local resolution. With `--agreement`, maps of the states are also made from their images
alone, without a model, and a state whose motion the images do not show is flagged.

The landscape (`--landscape.maps`) decodes many maps and takes these apart inside a mask: principal components of volumes,
clusters, means and spreads, populations, and every particle's place. Definitions are those of cryoDRGN.

`--keep` chooses particles by a rule over pc1, z1, umap1, volume1 (landscape), state, component, uncertainty, agreement and
every numeric column of the particles; `--lasso` by a polygon over two of these, {"x": "pc1", "y": "pc2", "polygon": ...}.

Writes `outputs/states.star` (every input column and `frazilState`), `outputs/states/state_000.star` and so on (the
particles of one state; `.cs` beside it when the job was given one), `outputs/volumes/state_000.mrc`, `pc1_000.mrc` and so
on, `outputs/pca.npy`, `outputs/umap.npy`, `outputs/centres.npy`, `outputs/landscape/`, `outputs/selected.star` and
`rejected.star`, `report.html`, `figures/`, `open.cxc` for ChimeraX and `open.mvsj` for Mol*.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from frazil.config import JobConfig, StageConfig, argument, setting

if TYPE_CHECKING:
    from frazil.engine.job import Job


class LandscapeSettings(StageConfig):
    """The landscape of volumes."""

    maps: int = setting(0, "maps decoded for the landscape, at k-means centres of the latent; 0 makes none", ge=0)
    states: int = setting(10, "clusters of these maps (average linkage)", ge=1)
    components: int = setting(20, "principal components of these maps", ge=1)
    box: int = setting(64, "voxels along each side of these maps, at most the job's", ge=8)
    mask: Path | None = setting(
        None, "map that is 0 where maps shall not be compared; drawn from the maps when not given"
    )


class Config(JobConfig):
    """Settings of `frazil analyze`."""

    job: Path = argument("folder of a reconstruct job, of one of its discrete states, or of a finished cryoDRGN run")
    method: Literal["auto", "kmeans", "gmm", "leiden"] = setting(
        "auto",
        "how states are found: k-means, a mixture of Gaussians, or communities of the neighbour graph; auto takes the"
        " discrete states of the job where it learnt some, else kmeans",
    )
    clusters: int | None = setting(
        None, "number of states; 10 for kmeans, chosen by the Bayesian information criterion for gmm", ge=1
    )
    resolution: float = setting(1.0, "of leiden: higher finds more states", gt=0)
    components: int = setting(2, "number of principal components along which maps are decoded", ge=0)
    steps: int = setting(10, "maps along each component, from the 5th to the 95th percentile", ge=2)
    graph: Path | str | None = setting(
        None, "particles (rows from 0, a file of rows, or states) to join by shortest paths through the cloud"
    )
    most_neighbours: int = setting(10, "nearest neighbours of each particle in the graph, itself included", ge=2)
    average_neighbours: float = setting(5.0, "neighbours kept on average: longer edges are dropped", gt=0)
    direct: Path | str | None = setting(
        None, "particles (rows from 0, a file of rows, or states) to join by straight lines in the latent"
    )
    direct_steps: int = setting(6, "maps on each straight line, both ends included", ge=2)
    umap: Literal["auto", "always", "never"] = setting(
        "auto", "UMAP of the latent: auto makes one of 3 coordinates and more"
    )
    agreement: bool = setting(False, "make each state's map from its images alone too, and compare")
    landscape: LandscapeSettings = LandscapeSettings()
    keep: str | None = setting(None, 'rule for particles to select, such as "pc1 > 0.5 and state in 1, 3"')
    lasso: Path | None = setting(None, "JSON file of a polygon over two coordinates: particles inside are selected")
    box: int | None = setting(
        None, "voxels along each side of the decoded maps; fewer than the job's are larger voxels"
    )
    level: float | None = setting(
        None, "contour level of the surfaces, in map units; chosen from the maps when not given"
    )
    pixel_size: float | None = setting(None, "of the images of a cryoDRGN run whose files do not say it, Å", gt=0)

    @field_validator("graph", "direct")
    @classmethod
    def _file_or_rows(cls, value: Path | str | None) -> Path | str | None:
        # as a path, the content of a file counts among the inputs of the job
        return Path(value) if value is not None and Path(value).is_file() else value


def run(config: Config, job: Job) -> None:
    """Analyse the reconstruction that the configuration names."""
    from frazil.analyze.analyze_job import run_analyze

    run_analyze(config, job)

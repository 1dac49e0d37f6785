"""Particles, with poses or without, to a consensus map, and to an ensemble of conformations.

The stack is backprojected into two half-maps with its CTF, whose Fourier shell correlation says how far the map can be
believed. An ensemble is then learnt where one is asked for: a latent coordinate for every particle and a density for
every latent coordinate. `--density basis` makes it of a few volumes, in two halves, in seconds to minutes; the number of
latent coordinates is the one that images of the other half ask for, unless `--latent-dim` gives it. Where molecules differ in
composition, `--basis.components` sorts them into discrete states, and `--basis.within` learns how each of these moves.
Where the table tells of tilt pairs (rlnGroupName, rlnMicrographTiltAngle), a basis gives both views of a particle one latent,
inferred from both images. `--preset cryodrgn` makes the ensemble of a neural field.

Poses, defocus, strength and beam tilt may be refined first, in rounds: `--refine.rounds 10`. Each particle is compared with
the map of its own half-set only, to the resolution that both halves agree upon, until they agree no better.

Where molecules move, a rigid map draws poses away from the truth. `--refine.by-state 2` learns conformations, refines every
particle against its own, and lays all conformations on each other so that most of the molecule stands still. With
`--density basis` this is done by itself where poses were found here.

Poses that the table does not have are searched (`--poses search`; with `--ignore-poses` even where it has some): random
starts make maps of images in all poses at once, the start that explains unseen images best goes on from coarse to fine, every
particle looks for its place from everywhere, and refinement in half-sets follows. The hand stays undetermined:
`frazil reconstruct JOB --flip-hand` makes the other one of a finished job.
`--search.classes` tells different molecules apart.

With `--poses amortised` an encoder looks at every image and guesses, a density is learnt from the best guesses, and both from
the error of the images. `--preset cryofire` does so as published. With `--preset cryodrgn2` poses are searched, every few
epochs and from coarse to fine, against a neural field while it is trained.

Several processes, on one machine or many, share the work where `torchrun` starts them.

    frazil reconstruct particles.star
    frazil reconstruct particles.star --symmetry O
    frazil reconstruct particles.star --refine.rounds 10
    frazil reconstruct particles.star --density basis
    frazil reconstruct particles.star --density basis --refine.by-state 2
    frazil reconstruct particles.star --density basis --basis.components 4 --basis.within auto
    frazil reconstruct particles.star --latent-dim 4
    frazil reconstruct particles.star --preset cryodrgn --latent-dim 8
    frazil reconstruct particles.star --poses search --symmetry O
    frazil reconstruct particles.star --poses search --search.classes 4
    frazil reconstruct particles.star --poses amortised
    frazil reconstruct particles.star --preset cryofire --latent-dim 8
    frazil reconstruct particles.star --preset cryodrgn2 --latent-dim 8
    torchrun --nproc-per-node 4 -m frazil reconstruct particles.star --preset cryodrgn --latent-dim 8

Makes outputs/consensus.mrc (filtered by its FSC), consensus_sharpened.mrc, half_a.mrc and half_b.mrc (unfiltered),
mask.mrc, fsc.csv, particles.star (every input column kept; what was refined is updated, and frazilScale says how strong
each particle is in its image) and report.html; with an ensemble also latent.npy (one row per row of the input),
latent_covariance.npy, ensemble.safetensors and ensemble.json. States that may move have a folder each,
outputs/component_000 and so on, with all of these for its own particles; `frazil analyze` and `frazil decode` open it. So
have different molecules found by a search; component.npy says which particle is of which.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frazil.config import JobConfig, argument, setting
from frazil.reconstruct.amortised_config import AmortisedConfig
from frazil.reconstruct.basis_config import BasisConfig
from frazil.reconstruct.hierarchical_config import HierarchicalConfig
from frazil.reconstruct.neural_config import NeuralConfig
from frazil.reconstruct.refine_config import RefineConfig
from frazil.reconstruct.search_config import SearchConfig

if TYPE_CHECKING:
    from frazil.engine.job import Job


# a launcher may start several, which share the work out
MANY_PROCESSES = True


class Config(JobConfig):
    """Settings of `frazil reconstruct`."""

    particles: Path = argument("particle stack: .star, .cs, or a job that made one")
    images: Path | None = setting(None, "folder the image paths in the stack start from (found by itself as a rule)")
    symmetry: str = setting("C1", "point group: C1, C2, ..., D2, ..., T, O, I1 to I4")
    mask: Path | None = setting(None, "mask for the FSC, .mrc on the grid of the map (drawn from the map unless given)")
    contrast: Literal["auto", "bright", "dark"] = setting("auto", "whether particles are bright or dark in the images")
    poses: Literal["given", "search", "amortised"] | None = setting(
        None,
        "where the poses come from: the table, a search, or an encoder trained together with the density (given where the"
        " table has poses, else a search)",
    )
    ignore_poses: bool = setting(False, "search from nothing even where the table has poses")
    flip_hand: bool = setting(False, "the poses of the table are of the other hand: the map becomes its mirror image")
    density: Literal["voxels", "basis", "field"] | None = setting(
        None,
        "what the density is made of: one rigid map of voxels, a basis of volumes, or a neural field (voxels, or with"
        " --latent-dim a basis)",
    )
    report: bool = setting(True, "draw the maps and write report.html (some seconds)")
    latent_dim: int | None = setting(
        None, "coordinates of the conformation; 0 makes one rigid map (a basis chooses by held-out images)", ge=0
    )
    basis: BasisConfig = BasisConfig()
    train: NeuralConfig = NeuralConfig()
    refine: RefineConfig = RefineConfig()
    search: SearchConfig = SearchConfig()
    hierarchical: HierarchicalConfig = HierarchicalConfig()
    amortised: AmortisedConfig = AmortisedConfig()

    @property
    def made_of(self) -> Literal["voxels", "basis", "field"]:
        """What the density is made of, whether it was said or follows from the latent dimension."""
        return self.density or ("basis" if self.latent_dim else "voxels")

    @property
    def searched_with_field(self) -> bool:
        """Whether poses are searched against a neural field while it is trained."""
        return self.poses == "search" and self.search.method == "hierarchical"


def run(config: Config, job: Job) -> None:
    """Reconstruct: see the module's text."""
    from frazil.reconstruct.consensus import reconstruct

    reconstruct(config, job)

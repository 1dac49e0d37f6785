"""What is trained for amortised poses: an encoder and a density, by the error of the images alone.

Of every image an encoder guesses poses, from the image and from its mirrored self. The density is seen from there, and the
guesses that explain the image best are held to account, with the density: the symmetric loss of CryoAI and CryoFIRE (Levy
et al. 2022), for as many heads as there are. Random proposals may join in: where one explains an image better than all
guesses, the density learns from it, and the nearest guess moves towards it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from frazil.engine.train import Task
from frazil.inference.objective import BetaSchedule, latent_price, squared_error
from frazil.inference.pose_encoders import Guesses, PoseEncoder, guess_both_ways, responsibilities
from frazil.inference.posteriors import LatentPosterior
from frazil.inference.proposals import best_proposal, pose_distance, shift_lattice
from frazil.inference.streamed import streamed_mean_error
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.rotations import random_rotations
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct.amortised_config import AmortisedConfig
from frazil.reconstruct.coefficients import StandardisedImages, without_beam_tilt
from frazil.reconstruct.learnt_density import LearntDensity, LearntVoxels, Slices

# guesses that count for less are not worth a slice
LEAST_SHARE = 1e-3


@final
@dataclass(frozen=True)
class Prepared:
    """What belongs to a whole batch, however it is shared out.

    Attributes:
        noise: standard normal, of the latents of every guess. proposals: rotations that all images are compared with.
    """

    noise: Float[Tensor, "batch paths latent"]
    proposals: Float[Tensor, "proposals 3 3"]

    def __getitem__(self, rows: slice) -> Prepared:
        return replace(self, noise=self.noise[rows])


@final
@dataclass(frozen=True)
class Paths:
    """Ways to explain the images of a batch: those of the encoder, then a proposal where there is one.

    Attributes:
        pose, latent: of every image and path. errors: mean squared error of each.
    """

    pose: Pose
    latent: Float[Tensor, "batch paths latent"]
    errors: Float[Tensor, "batch paths"]


@final
class AmortisedPoses(Task):
    """The encoder, the density, and the loss of a batch.

    Args:
        images: standardised coefficients of all particles. optics: of all particles, or None. encoder, density: what is
            trained. config: rates and schedules. beta: weight of the latents' divergence. device: where to compute.
        images_at_once: slices that a worker has in hand. workers: threads that share a batch. names: how a message calls
            a row.
    """

    def __init__(
        self,
        images: StandardisedImages,
        optics: Optics | None,
        encoder: PoseEncoder,
        density: LearntDensity,
        config: AmortisedConfig,
        *,
        beta: BetaSchedule | None = None,
        device: str = "cpu",
        images_at_once: int = 1024,
        workers: int = 1,
        names: Callable[[int], str] | None = None,
    ) -> None:
        self.images, self.optics, self.config, self.names = images, optics, config, names
        self.device = torch.device(device)
        self.encoder, self.density = encoder.to(device), density.to(device)
        self.beta = beta or BetaSchedule(0.0, 0.0)
        self.layout = images.grid.half_plane(device=device)
        self.weight = self.layout.weight * (self.layout.radius > 0)
        self.shifts = shift_lattice(config.shift_extent, config.proposal_shifts if config.shifts else 1).to(device)
        self.images_at_once, self.workers = images_at_once, workers

    @property
    def paths(self) -> int:
        """Guesses per image."""
        return self.encoder.heads * (1 if self.config.mirror == "no" else 2)

    def modules(self) -> dict[str, nn.Module]:
        """Everything with a state, by name."""
        return {"encoder": self.encoder, "density": self.density}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam, with a step of its own for voxels."""
        config = self.config
        own = config.voxel_learning_rate if isinstance(self.density, LearntVoxels) else config.learning_rate
        groups = [
            {"params": list(self.encoder.parameters()), "lr": config.learning_rate},
            {"params": list(self.density.parameters()), "lr": own},
        ]
        return {"all": torch.optim.Adam(groups, weight_decay=config.weight_decay, fused=True)}

    def prepare(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Prepared:
        """Random numbers for a batch."""
        noise = torch.randn(len(rows), self.paths, self.encoder.latent_dim, generator=generator)
        proposals = random_rotations(self.config.proposals, generator)
        return Prepared(noise.to(self.device), proposals.to(self.device))

    def step(self, rows: Int[Tensor, " batch"], epoch: float, prepared: Prepared) -> dict[str, Tensor]:
        """Loss of images of a batch at a (fractional) epoch, and the mean squared error of their best paths."""
        seen = epoch * len(self.images)
        layout = self.layout_after(seen)
        images, transfer = self.batch(rows)
        guesses = self.guess(images, transfer, layout)
        latent, divergence = self._latents(guesses.latent, seen, prepared.noise)
        slices = self.density.slices(layout)
        paths = self._compared(slices, guesses.pose, latent, images, transfer, layout)
        taught = images.real.new_zeros(())
        if self.config.proposals:
            paths = self._with_proposal(paths, prepared.proposals, slices, images, transfer, layout)
            taught = self._teaching(paths)
        error = self._error(slices, paths, images, transfer, layout)
        price = latent_price(divergence, self.beta(seen), float(self.weight.sum()))
        loss = (error + self.config.teaching * taught + price) * self.config.loss_scale
        least = paths.errors.min(1).values.mean()
        return {"loss": loss, "error": least, "taught": taught.detach(), "divergence": divergence.detach()}

    def name_of(self, row: int) -> str:
        """How a message calls a row."""
        return super().name_of(row) if self.names is None else f"particle {self.names(row)}"

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """How far frequencies have marched."""
        return {"radius": float(self.layout_after(epoch * len(self.images)).band)}

    def layout_after(self, seen: float) -> HalfPlane:
        """The coefficients that are compared after so many images."""
        config = self.config
        last = min(config.last_radius or self.layout.band, self.layout.band)
        if config.mask == "circle":
            return self.layout.within(last)
        return self.layout.within(min(last, config.first_radius + int(seen / config.radius_every)))

    def batch(
        self, rows: Int[Tensor, " batch"]
    ) -> tuple[Complex[Tensor, "batch coefficients"], Float[Tensor, "batch coefficients"]]:
        """Coefficients of images with beam tilt taken away, and their CTF."""
        return without_beam_tilt(self.images, self.optics, rows, self.layout)

    def guess(
        self,
        images: Complex[Tensor, "batch coefficients"],
        transfer: Float[Tensor, "batch coefficients"],
        layout: HalfPlane,
    ) -> Guesses:
        """What the encoder says of phase-flipped images without their mean, both ways."""
        shown = self.weight > 0
        if self.config.input_mask == "marching":
            shown = shown & (self.layout.radius < layout.band + 0.5)
        flipped = images * (torch.sign(transfer) * shown)
        guesses = guess_both_ways(self.encoder, flipped, self.layout, self.config.mirror)
        if self.config.shifts:
            return guesses
        return replace(guesses, pose=Pose(guesses.pose.rotation, torch.zeros_like(guesses.pose.shift)))

    @torch.no_grad()
    def best(self, rows: Int[Tensor, " batch"], seen: float) -> tuple[Pose, LatentPosterior]:
        """The best guess of each of some particles with the networks as they are now, and its conformation."""
        layout = self.layout_after(seen)
        images, transfer = self.batch(rows)
        guesses = self.guess(images, transfer, layout)
        slices = self.density.slices(layout)
        paths = self._compared(slices, guesses.pose, guesses.latent.mean, images, transfer, layout)
        best, row = paths.errors.argmin(1), torch.arange(len(rows), device=self.device)
        return paths.pose[row, best], guesses.latent[row, best]

    def _latents(
        self, posterior: LatentPosterior, seen: float, noise: Float[Tensor, "batch paths latent"]
    ) -> tuple[Float[Tensor, "batch paths latent"], Float[Tensor, ""]]:
        """The conformation of every guess, and what it tells in nats: random and nothing while poses alone are learnt."""
        nothing = noise.new_zeros(())
        if seen < self.config.pose_only:
            return noise * self.config.latent_spread, nothing
        if self.config.variational:
            return posterior.sample(noise), posterior.divergence().mean()
        return posterior.mean, nothing

    def _compared(
        self, slices: Slices, pose: Pose, latent: Tensor, images: Tensor, transfer: Tensor, layout: HalfPlane
    ) -> Paths:
        """Errors of all guesses; nothing flows back."""
        count, paths = pose.shift.shape[:2]
        row = torch.arange(count, device=self.device).repeat_interleave(paths)
        kept = slice(layout.count)
        weight = self.weight[kept]
        flat_pose, flat_latent = _flat(pose).detach(), latent.detach().flatten(0, 1)
        parts: list[Tensor] = []
        with torch.no_grad():
            for part in torch.arange(len(row), device=self.device).split(self.images_at_once):
                predicted = slices(flat_pose.rotation[part], slices.context(flat_latent[part]))
                predicted = predicted * flat_pose[part].shift_phase(self.images.grid, layout)
                at = row[part]
                parts.append(squared_error(predicted * transfer[at, kept], images[at, kept], weight))
        return Paths(pose, latent, torch.cat(parts).view(count, paths))

    def _with_proposal(
        self,
        paths: Paths,
        rotations: Float[Tensor, "proposals 3 3"],
        slices: Slices,
        images: Tensor,
        transfer: Tensor,
        layout: HalfPlane,
    ) -> Paths:
        """The best random pose of every image as one more path, with the conformation of its best guess."""
        kept = slice(layout.count)
        with torch.no_grad():
            still = slices(rotations, slices.context(paths.latent.new_zeros(len(rotations), self.encoder.latent_dim)))
            proposal = best_proposal(
                still,
                rotations,
                self.shifts,
                images[:, kept],
                transfer[:, kept],
                self.weight[kept],
                self.images.grid,
                layout,
            )
        more = Pose(proposal.rotation[:, None], proposal.shift[:, None])
        best = paths.errors.argmin(1)[:, None, None].expand(-1, 1, self.encoder.latent_dim)
        found = self._compared(slices, more, paths.latent.gather(1, best), images, transfer, layout)
        return Paths(
            Pose(
                torch.cat((paths.pose.rotation, found.pose.rotation), 1),
                torch.cat((paths.pose.shift, found.pose.shift), 1),
            ),
            torch.cat((paths.latent, found.latent), 1),
            torch.cat((paths.errors, found.errors), 1),
        )

    def _teaching(self, paths: Paths) -> Float[Tensor, ""]:
        """Distance from better proposals to the nearest guess of their images."""
        better: Bool[Tensor, " batch"] = paths.errors[:, -1] < paths.errors[:, :-1].min(1).values
        guesses = Pose(paths.pose.rotation[:, :-1], paths.pose.shift[:, :-1])
        target = Pose(paths.pose.rotation[:, -1:], paths.pose.shift[:, -1:])
        distance = pose_distance(guesses, target, self.images.grid.pixel_size).min(1).values
        return (better * distance).mean()

    def _error(
        self, slices: Slices, paths: Paths, images: Tensor, transfer: Tensor, layout: HalfPlane
    ) -> Float[Tensor, ""]:
        """Mean error of the paths that count, which gradients flow through: into density, pose and conformation."""
        kept = slice(layout.count)
        weight, grid = self.weight[kept], self.images.grid
        share = responsibilities(paths.errors, self.config.softness, float(weight.sum()))
        row, path = torch.nonzero(share > LEAST_SHARE, as_tuple=True)
        # the mean over pairs becomes the mean over images
        share = share[row, path] * (len(row) / len(images))
        context = slices.context(paths.latent[row, path])

        def error_of(rows: slice, tensors: tuple[Tensor, ...]) -> Tensor:
            rotation, shift, told, counts, observed, ctf = tensors
            predicted = slices(rotation, told) * Pose(rotation, shift).shift_phase(grid, layout) * ctf
            return squared_error(predicted, observed, weight) * counts

        pose = paths.pose[row, path]
        per_image = (pose.rotation, pose.shift, context, share, images[row, kept], transfer[row, kept])
        return streamed_mean_error(error_of, per_image, slices.parameters, self.images_at_once, self.workers)


def _flat(pose: Pose) -> Pose:
    """Poses of all images and paths in one row."""
    return Pose(pose.rotation.flatten(0, 1), pose.shift.flatten(0, 1))

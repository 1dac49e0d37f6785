"""A variational autoencoder of particle images: encoder, neural field, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from frazil.engine.train import Task
from frazil.inference.encoders import ConvolutionalEncoder, Encoder, MLPEncoder
from frazil.inference.objective import BETA_SCHEDULES, BetaSchedule, latent_price, squared_error
from frazil.inference.posteriors import LatentPosterior
from frazil.inference.streamed import streamed_mean_error
from frazil.inference.tables import PoseTable, row_optimizer
from frazil.numerics.fourier import HalfPlane
from frazil.physics.field import FieldNetwork, slice_points
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct.coefficients import StandardisedImages, without_beam_tilt
from frazil.reconstruct.neural_config import NeuralConfig

# points of the field that a worker evaluates at once on a CPU, so that activations stay in its cache
POINTS_AT_ONCE = 3200
# torch's questions whether a CPU multiplies bfloat16 numbers; older versions lack some
BFLOAT16_INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
# of the coefficients drawn for a step, this share is spent on the lowest frequencies, which are all taken
SHARE_ALWAYS_DRAWN = 0.5


@final
@dataclass(frozen=True)
class Batch:
    """Images of a step with what is known about them.

    Attributes:
        rows: of the data set. images: centred coefficients. transfer: CTF on the same half-plane, 1 without optics.
        rotation: object to view.
    """

    rows: Int[Tensor, " batch"]
    images: Complex[Tensor, "batch coefficients"]
    transfer: Float[Tensor, "batch coefficients"]
    rotation: Float[Tensor, "batch 3 3"]


@final
@dataclass(frozen=True)
class Prepared:
    """What belongs to a whole batch, however it is shared out.

    Attributes:
        noise: standard normal, of the latents. coefficients: those the batch is compared in, in order; None for all.
        divergence: mean over the batch; None where the price of the latent does not ask for it.
    """

    noise: Float[Tensor, "batch latent"]
    coefficients: Int[Tensor, " drawn"] | None
    divergence: Float[Tensor, ""] | None

    def __getitem__(self, rows: slice) -> Prepared:
        return replace(self, noise=self.noise[rows])


@final
class Autoencoder(Task):
    """What is trained: two networks, and the table of poses if they are refined.

    Args:
        images: standardised coefficients of all particles. pose: of all particles. optics: of all particles, or None.
        config: sizes, rates, schedules. latent_dim: latent coordinates. device: where to compute.
        precision: of the field's matrix products, None for float32. workers: threads that share a
            batch. names: how a message calls a row.
    """

    def __init__(
        self,
        images: StandardisedImages,
        pose: Pose,
        optics: Optics | None,
        config: NeuralConfig,
        *,
        latent_dim: int,
        device: str = "cpu",
        precision: torch.dtype | None = None,
        workers: int = 1,
        names: Callable[[int], str] | None = None,
    ) -> None:
        self.images, self.config, self.device = images, config, torch.device(device)
        self.latent_dim, self.precision, self.names = latent_dim, precision, names
        self.layout = images.grid.half_plane(device=device)
        self.pose = pose.to(torch.float32)
        self.optics = optics
        self.encoder = make_encoder(config, self.layout, latent_dim).to(device)
        self.field = FieldNetwork(
            images.grid,
            latent_dim,
            width=config.width,
            layers=config.layers,
            encoding=config.encoding,
            features=config.encoding_features,
            sigma=config.encoding_sigma,
            domain=config.domain,
        ).to(device)
        self.field.amplitude.fill_(images.amplitude)
        self.poses = PoseTable(self.pose, images.grid.pixel_size).to(device) if config.refine_poses else None
        self.beta = beta_schedule(config.beta, latent_dim)
        # the origin is left out: it carries the mean of the image, which standardisation has set
        self.weight = self.layout.weight * (self.layout.radius > 0)
        self.workers = workers
        points = round(config.coefficients * self.layout.count)
        fits = max(1, min(POINTS_AT_ONCE // points, config.batch_size // workers))
        self.images_at_once = fits if self.device.type == "cpu" else config.batch_size

    def modules(self) -> dict[str, nn.Module]:
        """Everything with a state, by name."""
        named: dict[str, nn.Module] = {"encoder": self.encoder, "field": self.field}
        return named if self.poses is None else {**named, "poses": self.poses}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One dense optimiser for the networks, one by rows for the poses."""
        weights = [*self.encoder.parameters(), *self.field.parameters()]
        named: dict[str, torch.optim.Optimizer] = {
            "networks": torch.optim.Adam(weights, lr=self.config.learning_rate, fused=True)
        }
        if self.poses is not None:
            named["poses"] = row_optimizer(self.poses, self.config.pose_learning_rate)
        return named

    def prepare(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Prepared:
        """Random numbers for a batch, and what a price that is not linear must know of all of it."""
        noise = torch.randn(len(rows), self.latent_dim, generator=generator)
        controlled = self.config.beta_control is not None
        divergence = self.posterior(rows).divergence().mean() if controlled else None
        return Prepared(noise.to(self.device), self.draw_coefficients(generator), divergence)

    def step(self, rows: Int[Tensor, " batch"], epoch: float, prepared: Prepared) -> dict[str, Tensor]:
        """Loss of images of a batch at a (fractional) epoch, their mean squared error and divergence."""
        moving = self.poses is not None and epoch >= self.config.pose_pretrain
        batch = self.batch(rows, moving=moving)
        posterior = self.encode(batch)
        error = self.error(batch, posterior.sample(prepared.noise), prepared.coefficients)
        divergence = posterior.divergence().mean()
        beta = self.beta(epoch * len(self.images))
        # the value of the whole batch with the slope of these images
        priced = divergence if prepared.divergence is None else divergence - divergence.detach() + prepared.divergence
        price = latent_price(priced, beta, float(self.weight.sum()), self.config.beta_control)
        return {"loss": error + price, "error": error.detach(), "divergence": divergence.detach()}

    def name_of(self, row: int) -> str:
        """How a message calls a row."""
        return super().name_of(row) if self.names is None else f"particle {self.names(row)}"

    def encode(self, batch: Batch) -> LatentPosterior:
        """Latent posteriors of a batch; the encoder sees phase-flipped images without their mean."""
        return self.encoder(batch.images * (torch.sign(batch.transfer) * (self.weight > 0)))

    @torch.no_grad()
    def posterior(self, rows: Int[Tensor, " batch"]) -> LatentPosterior:
        """Latent posteriors of some particles with the networks as they are now."""
        return self.encode(self.batch(rows))

    @torch.no_grad()
    def refined_poses(self) -> Pose | None:
        """The poses of all particles as they are now, if they are refined."""
        if self.poses is None:
            return None
        return self.poses(torch.arange(len(self.images), device=self.device)).to("cpu")

    def batch(self, rows: Int[Tensor, " batch"], *, moving: bool = False, pose: Pose | None = None) -> Batch:
        """Images, CTF and present poses of some particles; differentiable in the poses if they are ``moving``.

        Args:
            pose: to be taken in place of the present poses.
        """
        given = self.pose[rows] if pose is None else pose
        here = given.to(self.device)
        if pose is None and self.poses is not None:
            with torch.set_grad_enabled(moving and torch.is_grad_enabled()):
                here = self.poses(rows.to(self.device))
        images, transfer = without_beam_tilt(self.images, self.optics, rows, self.layout)
        images = images * here.shift_phase(self.images.grid, self.layout).conj()
        return Batch(rows, images, transfer, here.rotation)

    def error(
        self, batch: Batch, latent: Float[Tensor, "batch latent"], index: Int[Tensor, " drawn"] | None
    ) -> Float[Tensor, ""]:
        """Mean squared error of the field's projections, image by image so that little is held at once."""
        points = slice_points(batch.rotation, self.layout, 1 / self.images.grid.box_size)
        transfer, images, weight = batch.transfer[..., None], batch.images, self.weight
        if index is not None:
            weight = self._weight_of(index)
            points, transfer, images = points[:, index], transfer[:, index], images[:, index]
        weights = self.field.perceptron.weights(self.precision)

        def error_of(rows: slice, tensors: tuple[Tensor, ...]) -> Tensor:
            bias, k, observed = tensors
            values = self.field.transform(k, weights, bias) * transfer[rows]
            return squared_error(torch.view_as_complex(values), observed, weight)

        per_image = (self.field.perceptron.entry_bias(latent), points, images)
        return streamed_mean_error(error_of, per_image, weights.tensors(), self.images_at_once, self.workers)

    def draw_coefficients(self, generator: torch.Generator) -> Int[Tensor, " drawn"] | None:
        """Which coefficients a batch looks at; None for all."""
        count, kept, always = self._drawn
        if kept >= count:
            return None
        drawn = torch.randperm(count - always, generator=generator)[: kept - always].sort().values + always
        return torch.cat((torch.arange(always), drawn)).to(self.device)

    def _weight_of(self, index: Int[Tensor, " drawn"]) -> Float[Tensor, " drawn"]:
        """Weights of the coefficients drawn that keep the expected loss what it is."""
        count, kept, always = self._drawn
        weight = self.weight[index].clone()
        weight[always:] *= (count - always) / (kept - always)
        return weight

    @property
    def _drawn(self) -> tuple[int, int, int]:
        """How many coefficients there are, are drawn for a batch, and are in every draw."""
        kept = round(self.config.coefficients * self.layout.count)
        return self.layout.count, kept, round(kept * SHARE_ALWAYS_DRAWN)


def make_encoder(config: NeuralConfig, layout: HalfPlane, latent_dim: int) -> Encoder:
    """The encoder a config asks for."""
    if config.encoder == "convolutional":
        return ConvolutionalEncoder(layout, latent_dim)
    return MLPEncoder(layout.count, latent_dim, config.encoder_width, config.encoder_layers)


def beta_schedule(beta: float | str, latent_dim: int) -> BetaSchedule:
    """The weight of the divergence a config asks for: 1 / latent_dim for auto."""
    if isinstance(beta, str) and beta in BETA_SCHEDULES:
        return BETA_SCHEDULES[beta]
    value = 1 / max(latent_dim, 1) if beta == "auto" else float(beta)
    return BetaSchedule(value, value)


def choose_precision(name: str, device: str) -> torch.dtype | None:
    """The dtype of the field's matrix products for a setting: bfloat16 if it is faster here, None for float32."""
    if name == "float32":
        return None
    if device == "cpu":
        fast = any(getattr(torch.cpu, name, bool)() for name in BFLOAT16_INSTRUCTIONS)
    else:
        fast = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast or name == "bfloat16" else None

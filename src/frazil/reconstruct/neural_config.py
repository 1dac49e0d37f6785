"""Settings of a neural ensemble with given poses."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from frazil.config import StageConfig, setting


class NeuralConfig(StageConfig):
    """A variational autoencoder: an encoder takes each image to a latent, a neural field takes the latent to a density.

    The defaults are those of cryoDRGN's `train_vae`.
    """

    encoder: Literal["mlp", "convolutional"] = setting(
        "mlp", "mlp reads the Fourier coefficients, convolutional the image"
    )
    encoder_width: int = setting(1024, "units per layer of the mlp encoder", ge=1)
    encoder_layers: int = setting(3, "residual layers of the mlp encoder", ge=0)
    width: int = setting(1024, "units per layer of the field", ge=1)
    layers: int = setting(3, "residual layers of the field", ge=0)
    encoding: Literal["gaussian", "geom_ft", "geom_full", "geom_lowf", "geom_nohighf", "linear_lowf", "none"] = setting(
        "gaussian", "positional encoding of the spatial frequency"
    )
    encoding_features: int | None = setting(
        None, "frequencies per axis of the encoding (half the box unless given)", ge=1
    )
    encoding_sigma: float = setting(0.5, "spread of the gaussian encoding, in units of half the box", gt=0)
    domain: Literal["fourier", "hartley"] = setting(
        "fourier", "what the field returns: real and imaginary part, or the Hartley transform (twice the work)"
    )
    box: int | None = setting(
        None, "crop the images in Fourier space to this box, px (the images' own unless given)", ge=8
    )
    window_inner: float = setting(0.85, "radius where the soft circular window begins to fall, 1 is half the box", gt=0)
    window_outer: float = setting(0.99, "radius where the window reaches zero, 1 is half the box", gt=0)
    epochs: int = setting(20, "passes over the particles", ge=1)
    batch_size: int = setting(16, "images per step", ge=1)
    accumulate: int = setting(1, "batches whose gradients are added up before the weights move", ge=1)
    learning_rate: float = setting(1e-4, "step length of Adam for both networks", gt=0)
    coefficients: float = setting(
        1.0, "share of each image's Fourier coefficients drawn for a step; the loss stays unbiased", gt=0, le=1
    )
    beta: float | Literal["auto", "a", "b", "c", "d"] = setting(
        "auto", "weight of the latent's divergence: a number, auto (1 / latent dimensions), or a schedule a to d"
    )
    beta_control: float | None = setting(None, "pull the divergence towards beta with this strength instead", gt=0)
    refine_poses: bool = setting(False, "train the poses too")
    pose_pretrain: int = setting(1, "epochs before the poses begin to move", ge=0)
    pose_learning_rate: float = setting(3e-4, "step length of the poses, radians and px", gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of the field's matrix products; auto takes bfloat16 where the processor has it"
    )
    checkpoint_every: int | None = setting(
        None, "optimizer steps between checkpoints (one a minute unless given)", ge=1
    )

    @model_validator(mode="after")
    def _window_falls(self) -> NeuralConfig:
        if self.window_inner >= self.window_outer:
            raise ValueError("window_inner must be smaller than window_outer")
        return self

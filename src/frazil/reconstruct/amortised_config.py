"""Settings of amortised poses: an encoder that is trained together with the density."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from frazil.config import StageConfig, setting


class AmortisedConfig(StageConfig):
    """An encoder takes each image to guesses of its pose, and is trained together with the density.

    The defaults are frazil's own: several heads, taught by random proposals; the map of their poses is where the search for
    every particle begins. The preset `cryofire` has those of CryoFIRE.
    """

    encoder: Literal["perceptron", "convolutional"] = setting(
        "perceptron", "perceptron reads the Fourier coefficients, convolutional the image"
    )
    width: int = setting(512, "units per layer of the perceptron", ge=1)
    layers: int = setting(3, "layers of the perceptron", ge=1)
    depth: int = setting(6, "blocks of the convolutional encoder; no more than leave a map of 2 x 2", ge=1)
    channels: int = setting(16, "channels of the first convolution; they double from block to block", ge=1)
    kernel_size: int = setting(3, "side of the convolutions, odd, px", ge=1)
    input_mask: Literal["none", "marching"] = setting(
        "marching", "the encoder sees the whole image, or only the frequencies that are compared so far"
    )
    heads: int = setting(4, "guesses of the pose per image and path; the best one counts", ge=1)
    mirror: Literal["no", "half_turn", "flip"] = setting(
        "half_turn",
        "the second path of the symmetric loss: the image turned in the plane, or mirrored; no for one path",
    )
    softness: float = setting(
        0.0, "how far the other guesses of an image count: 0 the best alone, 1 as their likelihoods say", ge=0
    )
    shifts: bool = setting(True, "find in-plane shifts too, not rotations alone")
    proposals: int = setting(
        1024, "random rotations that every batch is compared with, whose best teach the encoder; 0 for none", ge=0
    )
    proposal_shifts: int = setting(3, "shifts per axis that proposals are tried with", ge=1)
    shift_extent: float = setting(10.0, "proposed shifts reach from minus to plus this, Å", gt=0)
    teaching: float = setting(0.04, "weight of the distance to a better proposal beside the error of the images", ge=0)
    mask: Literal["circle", "marching"] = setting(
        "marching", "compare all frequencies in the circle at once, or from low to high"
    )
    first_radius: int = setting(4, "frequency where marching begins, Fourier px", ge=1)
    last_radius: int | None = setting(None, "frequency where marching ends, Fourier px (the edge unless given)", ge=1)
    radius_every: int = setting(20_000, "images seen until one more frequency is compared", ge=1)
    pose_only: int = setting(0, "images seen while conformations are random numbers and only poses are learnt", ge=0)
    latent_spread: float = setting(3.0, "standard deviation of the random conformations of that phase", ge=0)
    variational: bool = setting(False, "the encoder gives a distribution of conformations and pays --train.beta for it")
    epochs: int = setting(60, "passes over the particles", ge=1)
    batch_size: int = setting(128, "images per step", ge=1)
    learning_rate: float = setting(1e-3, "step length of Adam for the networks", gt=0)
    voxel_learning_rate: float = setting(0.01, "step length of Adam for voxels, in units of the first map", gt=0)
    weight_decay: float = setting(0.0, "weight decay of Adam", ge=0)
    loss_scale: float = setting(1.0, "factor of the whole loss", gt=0)
    metric_every: int | None = setting(
        None, "optimizer steps between lines of metrics (one per epoch unless given)", ge=1
    )
    checkpoint_every: int | None = setting(
        None, "optimizer steps between checkpoints (one a minute unless given)", ge=1
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a kernel has a centre: give an odd number")
        return value

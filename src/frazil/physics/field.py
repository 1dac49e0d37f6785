"""A neural field: a density whose Fourier transform is a network of the spatial frequency and the conformation.

``F(k, z) = amplitude x network(encode(k), z)`` with k in cycles per pixel of the grid it was learnt on, in [-0.5, 0.5].
A projection is the network on a central slice, so no image or volume is ever interpolated (Zhong et al., Nature Methods
18:176, 2021). The network sees one half of frequency space; the other half follows from Hermitian symmetry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, final, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from frazil.numerics.fourier import HalfPlane, integer_frequencies, spectrum_to_volume
from frazil.numerics.perceptron import PerceptronWeights, ResidualPerceptron
from frazil.physics.density import Density
from frazil.physics.ensemble import Ensemble
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose

Encoding = Literal["gaussian", "geom_ft", "geom_full", "geom_lowf", "geom_nohighf", "linear_lowf", "none"]
Domain = Literal["fourier", "hartley"]
ENCODINGS: tuple[str, ...] = get_args(Encoding)

# frequencies handed to the network at once when a volume is decoded: activations stay in the cache of a processor
POINTS_AT_ONCE = 4096


def encoding_frequencies(
    encoding: Encoding,
    box_size: int,
    count: int | None = None,
    sigma: float = 0.5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "features 3"]:
    """Wave vectors w of the positional encoding ``(sin w.k, cos w.k)``, those of cryoDRGN's options of the same name.

    With n = 2 (box_size // 2), i = 0 .. count - 1 and r = i / (count - 1), the lengths of the vectors are

    - ``geom_ft``: ``pi n (2 / n)^r``; ``geom_full``: ``pi n (1 / (pi n))^r``
    - ``geom_lowf``: ``(n/2) (2 / n)^r``; ``geom_nohighf``: ``(n/2) (4 pi / n)^r``
    - ``linear_lowf``: 1, 2, ... n/2

    along each of the three axes. ``gaussian`` draws 3 count vectors from a normal distribution of standard deviation
    ``sigma n / 2`` on each axis. ``none`` has no vectors: the network sees k itself.

    Args:
        count: frequencies per axis; half the box by default.

    Raises:
        ValueError: if the encoding has no such name.
    """
    half = box_size // 2
    count = half if count is None else count
    ratio = torch.arange(count, dtype=torch.float64) / max(count - 1, 1)
    pi = torch.pi
    if encoding == "none":
        return torch.zeros(0, 3)
    if encoding == "gaussian":
        return torch.randn(3 * count, 3, generator=generator) * (sigma * half)
    if encoding == "geom_ft":
        lengths = 2 * half * pi * (1 / half) ** ratio
    elif encoding == "geom_full":
        lengths = 2 * half * pi * (1 / (2 * half * pi)) ** ratio
    elif encoding == "geom_lowf":
        lengths = half * (1 / half) ** ratio
    elif encoding == "geom_nohighf":
        lengths = half * (2 * pi / half) ** ratio
    elif encoding == "linear_lowf":
        lengths = torch.arange(1, half + 1, dtype=torch.float64)
    else:
        raise ValueError(f"{encoding!r} is no positional encoding: choose one of {', '.join(ENCODINGS)}")
    # axis by axis: row a * count + i is the i-th wave along axis a
    return (torch.eye(3, dtype=torch.float64)[:, None] * lengths[:, None]).reshape(-1, 3).to(torch.float32)


def slice_points(
    rotation: Float[Tensor, "batch 3 3"], layout: HalfPlane, scale: float
) -> Float[Tensor, "batch coefficients 3"]:
    """Frequencies of the coefficients of a view, in the frame of the object: ``k_object = R^T k_view``, times ``scale``."""
    plane = torch.stack((layout.x, layout.y), dim=-1).to(rotation.dtype) * scale
    return plane @ rotation[:, :2]


def half_space_sign(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
    """-1 where a frequency lies in the half of space that is left to Hermitian symmetry, +1 elsewhere.

    The border is a plane so close to z = 0 that on a lattice z decides, where it is 0 y, and where both are 0 x.
    """
    normal = points.new_tensor((1e-6, 1e-3, 1.0))
    return torch.where((points.detach() @ normal) > 0, -1.0, 1.0).to(points.dtype)[..., None]


@final
class FieldNetwork(nn.Module):
    """The trainable part of a `Field`: takes a conformation to a density.

    Args:
        grid: the grid of the images it is trained on.
        latent_dim: coordinates of a conformation.
        width, layers: of the residual perceptron.
        encoding, features, sigma: see `encoding_frequencies`.
        domain: the network returns real and imaginary part (``fourier``), or the Hartley transform Re - Im at k, from which
            both parts follow with its value at -k (``hartley``, twice the work).
        generator: draws the frequencies of the gaussian encoding.
    """

    frequencies: Tensor
    amplitude: Tensor

    def __init__(
        self,
        grid: Grid,
        latent_dim: int,
        *,
        width: int = 1024,
        layers: int = 3,
        encoding: Encoding = "gaussian",
        features: int | None = None,
        sigma: float = 0.5,
        domain: Domain = "fourier",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.latent_dim, self.domain = grid, latent_dim, domain
        self.settings: dict[str, int | float | str] = {
            "box_size": grid.box_size,
            "pixel_size": grid.pixel_size,
            "latent_dim": latent_dim,
            "width": width,
            "layers": layers,
            "encoding": encoding,
            "features": grid.box_size // 2 if features is None else features,
            "sigma": sigma,
            "domain": domain,
        }
        waves = encoding_frequencies(encoding, grid.box_size, features, sigma, generator)
        self.register_buffer("frequencies", waves)
        self.register_buffer("amplitude", torch.ones(()))
        inputs = 2 * waves.shape[0] if encoding != "none" else 3
        self.perceptron = ResidualPerceptron(inputs, latent_dim, width, layers, 2 if domain == "fourier" else 1)

    def density(self, latent: Float[Tensor, "*batch latent"]) -> Field:
        """The density of one conformation, or of one conformation per pose."""
        return Field(self, latent)

    def encode(self, points: Float[Tensor, "*batch 3"], dtype: torch.dtype) -> Float[Tensor, "*batch f"]:
        """Positional encoding of frequencies, cast to ``dtype``."""
        if self.frequencies.shape[0] == 0:
            return points.to(dtype)
        angle = points @ self.frequencies.mT.to(points.dtype)
        if angle.requires_grad:
            return torch.cat((angle.sin(), angle.cos()), dim=-1).to(dtype)
        # written straight into the result: one pass over memory less
        count = angle.shape[-1]
        encoded = torch.empty(*angle.shape[:-1], 2 * count, dtype=dtype, device=angle.device)
        encoded[..., :count].copy_(angle.sin())
        encoded[..., count:].copy_(angle.cos_())
        return encoded

    def forward(
        self, latent: Float[Tensor, "groups latent"], points: Float[Tensor, "groups points 3"]
    ) -> Float[Tensor, "groups points 2"]:
        """Real and imaginary part of the transform at frequencies (cycles per pixel), before the amplitude."""
        return self.transform(points, self.perceptron.weights(), self.perceptron.entry_bias(latent))

    def transform(
        self, points: Float[Tensor, "groups points 3"], weights: PerceptronWeights, bias: Float[Tensor, "groups width"]
    ) -> Float[Tensor, "groups points 2"]:
        """The same from weights and first biases prepared by the perceptron, in the precision of the weights."""
        return self.by_symmetry(points, lambda k: weights(self.encode(k, weights.precision), bias))

    def by_symmetry(self, points: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Real and imaginary part from a network of frequencies, by the symmetry of the domain."""
        if self.domain == "hartley":
            here, there = network(points), network(-points)
            return torch.cat((here + there, there - here), dim=-1) / 2
        sign = half_space_sign(points)
        value = network(points * sign)
        return value * torch.cat((torch.ones_like(sign), sign), dim=-1)


@final
@dataclass(frozen=True)
class Field(Density):
    """The density of a `FieldNetwork` at a conformation.

    Attributes:
        network: the field. latent: one conformation for all poses, or one for each.
        output: weights of the last layer (with the bias as last column) in place of the network's own.
    """

    network: FieldNetwork
    latent: Float[Tensor, "*batch latent"]
    output: Float[Tensor, "parts width1"] | None = None

    def project(self, pose: Pose, grid: Grid, layout: HalfPlane | None = None) -> Complex[Tensor, "batch coefficients"]:
        """The network on central slices: see `Density.project`. Zero beyond the band it was trained on."""
        layout = grid.half_plane(device=str(self.latent.device)) if layout is None else layout
        scale = self.network.grid.pixel_size / grid.extent
        points = slice_points(pose.rotation, layout, scale)
        latent = self.latent.expand(points.shape[0], -1)
        known = layout.radius * scale < self._limit
        parts = self._evaluate(latent, points) * known[:, None]
        # the zero coefficient is the sum of the pixels: real
        imaginary = parts[..., 1] * (layout.radius > 0)
        slices = torch.complex(parts[..., 0], imaginary) * self._scale(grid)
        return slices * pose.shift_phase(grid, layout)

    def voxels(self, grid: Grid) -> Float[Tensor, "n n n"]:
        """The density on a grid: half of frequency space is decoded, piece by piece, and transformed back.

        Raises:
            ValueError: if the latent holds more than one conformation.
        """
        if self.latent.ndim != 1:
            raise ValueError("voxels are made of one conformation at a time: index the latent first")
        n, device = grid.box_size, self.latent.device
        signed = integer_frequencies(n, device=device)
        kz, ky, kx = torch.meshgrid(signed, signed, integer_frequencies(n, half=True, device=device), indexing="ij")
        index = torch.stack((kx, ky, kz), dim=-1).reshape(-1, 3)
        scale = self.network.grid.pixel_size / grid.extent
        radius = index.to(torch.float64).norm(dim=-1)
        known = torch.nonzero((radius * scale < self._limit) & (radius < (n - 1) // 2 + 0.5))[:, 0]
        spectrum = torch.zeros(index.shape[0], dtype=self._complex, device=device)
        pieces: list[Tensor] = []
        for rows in known.split(POINTS_AT_ONCE):
            points = index[rows].to(self.latent.dtype) * scale
            parts = self._evaluate(self.latent[None], points[None])[0]
            pieces.append(torch.complex(parts[:, 0], parts[:, 1] * (rows != 0)))
        spectrum = spectrum.index_copy(0, known, torch.cat(pieces)) * self._scale(grid)
        return spectrum_to_volume(spectrum.reshape(n, n, n // 2 + 1), n)

    def linear_parameters(self) -> Float[Tensor, "parts width1"]:
        """Weights and biases of the last layer, in which the field is linear."""
        if self.output is not None:
            return self.output
        last = self.network.perceptron.output
        return torch.cat((last.weight, last.bias[:, None]), dim=1)

    def with_linear_parameters(self, parameters: Float[Tensor, "parts width1"]) -> Field:
        """The same field with another last layer."""
        return Field(self.network, self.latent, parameters)

    def _evaluate(self, latent: Tensor, points: Tensor) -> Tensor:
        network = self.network
        weights, bias = network.perceptron.weights(), network.perceptron.entry_bias(latent)
        if self.output is not None:
            weights = replace(weights, output=self.output[:, :-1], output_bias=self.output[:, -1])
        return network.transform(points, weights, bias)

    @property
    def _limit(self) -> float:
        """Radius of the trained band, cycles per pixel of the network's grid."""
        grid = self.network.grid
        return (grid.last_shell + 0.5) / grid.box_size

    @property
    def _complex(self) -> torch.dtype:
        return torch.complex128 if self.latent.dtype == torch.float64 else torch.complex64

    def _scale(self, grid: Grid) -> Tensor:
        # a pixel is a sum of voxels, so coefficients grow with the number of voxels per Å^3
        return self.network.amplitude * (self.network.grid.pixel_size / grid.pixel_size) ** 3


@final
class FieldEnsemble(Ensemble):
    """A neural field whose latent coordinate is the conformation.

    Args:
        network: the trained field; it is put into evaluation mode and frozen.
    """

    kind: str = "field"

    def __init__(self, network: FieldNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @property
    def latent_dim(self) -> int:
        """Number of latent coordinates."""
        return self.network.latent_dim

    @property
    def grid(self) -> Grid:
        """The grid of the images the field was trained on."""
        return self.network.grid

    def density(self, latent: Float[Tensor, "*batch latent"]) -> Field:
        """The field at one conformation, or at one conformation per pose."""
        return Field(self.network, latent.to(self.network.frequencies))

    def to(self, device: str) -> FieldEnsemble:
        """The same ensemble with its network on another device."""
        self.network.to(device)
        return self

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and buffers by name, and the settings that rebuild the network around them."""
        return dict(self.network.state_dict()), dict(self.network.settings)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, Any]) -> FieldEnsemble:
        """The ensemble that gave these tensors and settings.

        Raises:
            KeyError: if a setting or a tensor is missing.
            TypeError: if a setting is not one of a field.
        """
        options = dict(settings)
        grid = Grid(int(options.pop("box_size")), float(options.pop("pixel_size")))
        network = FieldNetwork(grid, int(options.pop("latent_dim")), **options)
        network.load_state_dict({name: tensors[name] for name in network.state_dict()})
        return cls(network)

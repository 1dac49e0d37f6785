"""Central slices of a volume's spectrum, and their exact adjoint.

The spectrum is sampled on a grid ``padding`` times finer than the image's own, kept as the x >= 0 half of a centred cube
(`padded_spectrum`), and read by trilinear interpolation. Interpolating between samples multiplies the volume by
``sinc^2`` of the position in real space; `padded_spectrum` divides by it beforehand.

On the CPU the compiled kernels of `compiled` do the work, on the GPU their torch twins in this file.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frazil.numerics import compiled
from frazil.numerics.fourier import HalfPlane


def spectrum_reach(band: int, padding: int) -> int:
    """Half side of the padded cube that holds every point of radius below ``band + 0.5`` with its interpolation corners."""
    return math.ceil(padding * (band + 0.5))


def spectrum_shape(band: int, padding: int) -> tuple[int, int, int]:
    """Shape (z, y, x) of the padded half cube of a band limit."""
    reach = spectrum_reach(band, padding)
    return 2 * reach + 1, 2 * reach + 1, reach + 1


def interpolation_falloff(box_size: int, padding: int, like: Tensor) -> Float[Tensor, "n n n"]:
    """What trilinear interpolation multiplies a volume by: the product over axes of sinc^2(x / (padding n))."""
    x = torch.arange(box_size, dtype=like.dtype, device=like.device) - box_size // 2
    profile = torch.sinc(x / (padding * box_size)) ** 2
    return profile[:, None, None] * profile[None, :, None] * profile[None, None, :]


def padded_spectrum(volume: Float[Tensor, "n n n"], band: int, padding: int) -> Complex[Tensor, "z y x"]:
    """The centred, padded half spectrum of a volume out to shell ``band``, compensated for the interpolation to come.

    Linear in the volume and differentiable.
    """
    n = volume.shape[-1]
    size, reach = padding * n, spectrum_reach(band, padding)
    low = size // 2 - n // 2
    high = size - n - low
    padded = torch.nn.functional.pad(volume / interpolation_falloff(n, padding, volume), (low, high) * 3)
    shifted = torch.fft.ifftshift(padded)
    full = torch.fft.rfftn(shifted) if reach <= size // 2 else torch.fft.fftn(shifted)
    signed = torch.arange(-reach, reach + 1, device=volume.device) % size
    positive = torch.arange(0, reach + 1, device=volume.device)
    return full.index_select(0, signed).index_select(1, signed).index_select(2, positive).contiguous()


def extract_slices(
    spectrum: Complex[Tensor, "z y x"], rotation: Float[Tensor, "batch 3 3"], layout: HalfPlane, scale: float
) -> Complex[Tensor, "batch coefficients"]:
    """Central slices of a padded spectrum, one per rotation.

    Slice coefficient k of rotation R is the spectrum at ``R^T (k_x, k_y, 0)``: the Fourier transform of the projection
    along the viewing axis (projection-slice theorem; Bracewell 1956). ``scale`` takes an index of the layout to an index
    of the spectrum: the padding, times the ratio of the two extents where volume and image differ in size. Points
    outside the spectrum read zero. Differentiable in the spectrum and the rotation.
    """
    if spectrum.device.type == "cpu":
        return _CompiledSlices.apply(spectrum, rotation, layout, float(scale))  # type: ignore[no-any-return]
    return gather_slices(spectrum, rotation, layout, scale)


def insert_slices(
    values: Complex[Tensor, "batch coefficients"],
    rotation: Float[Tensor, "batch 3 3"],
    layout: HalfPlane,
    scale: float,
    spectrum: Complex[Tensor, "z y x"],
) -> None:
    """Add slices into a padded spectrum in place: the adjoint of `extract_slices` (in the spectrum)."""
    if spectrum.device.type == "cpu":
        x, y = _coordinates(layout, rotation.dtype)
        turned = rotation.detach().contiguous().numpy()
        compiled.scatter_slices(
            values.detach().resolve_conj().contiguous().numpy(), turned, x, y, float(scale), spectrum.numpy()
        )
    else:
        scatter_slices(values, rotation, layout, scale, spectrum)


def corners(
    rotation: Float[Tensor, "batch 3 3"], layout: HalfPlane, scale: float, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices (batch, coefficients, 8), weights of the same shape, and which points were read at their Friedel mate."""
    reach = shape[2] - 1
    flat = torch.stack((layout.x, layout.y), dim=-1).to(rotation.dtype) * scale
    points = flat @ rotation[:, :2, :]
    mirrored = points[..., 0] < 0
    points = torch.where(mirrored[..., None], -points, points)
    points = points + torch.tensor([0, reach, reach], dtype=points.dtype, device=points.device)
    base = points.detach().floor()
    fraction = points - base
    base = base.to(torch.int64)
    inside = (base[..., 0] < reach) & ((base[..., 1:] >= 0) & (base[..., 1:] < 2 * reach)).all(-1)
    indices: list[Tensor] = []
    weights: list[Tensor] = []
    for corner in range(8):
        offset = (corner & 1, (corner >> 1) & 1, corner >> 2)
        weight = inside.to(fraction.dtype)
        for axis in range(3):
            weight = weight * (fraction[..., axis] if offset[axis] else 1 - fraction[..., axis])
        place = ((base[..., 2] + offset[2]) * shape[1] + base[..., 1] + offset[1]) * shape[2] + base[..., 0] + offset[0]
        indices.append(torch.where(inside, place, 0))
        weights.append(weight)
    return torch.stack(indices, -1), torch.stack(weights, -1), mirrored


def gather_slices(
    spectrum: Complex[Tensor, "z y x"], rotation: Float[Tensor, "batch 3 3"], layout: HalfPlane, scale: float
) -> Complex[Tensor, "batch coefficients"]:
    """The torch twin of `compiled.gather_slices`: any device, differentiable by autograd."""
    index, weight, mirrored = corners(rotation, layout, scale, tuple(spectrum.shape))
    values = (spectrum.reshape(-1)[index] * weight).sum(-1)
    return torch.where(mirrored, values.conj(), values)


def scatter_slices(
    values: Complex[Tensor, "batch coefficients"],
    rotation: Float[Tensor, "batch 3 3"],
    layout: HalfPlane,
    scale: float,
    spectrum: Complex[Tensor, "z y x"],
) -> None:
    """The torch twin of `compiled.scatter_slices`, in place."""
    index, weight, mirrored = corners(rotation, layout, scale, tuple(spectrum.shape))
    aligned = torch.where(mirrored, values.conj(), values)
    spectrum.view(-1).index_add_(0, index.reshape(-1), (aligned[..., None] * weight).reshape(-1))


def _coordinates(layout: HalfPlane, dtype: torch.dtype) -> tuple[Any, Any]:
    return layout.x.to(dtype).numpy(), layout.y.to(dtype).numpy()


def _in_threads(function: Any, count: int) -> None:
    """Run ``function(rows)`` on contiguous parts of ``count`` rows, one per torch thread. Parts write apart: no race."""
    workers = min(torch.get_num_threads(), max(1, count // 8))
    edges = [round(count * part / workers) for part in range(workers + 1)]
    parts = [slice(first, last) for first, last in zip(edges[:-1], edges[1:], strict=True)]
    if workers == 1:
        function(parts[0])
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(function, parts))


class _CompiledSlices(torch.autograd.Function):
    """The compiled gather with its hand-written derivative: scatter for the spectrum, `rotation_gradient` for the pose."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        spectrum, rotation, layout, scale = arguments
        x, y = _coordinates(layout, rotation.dtype)
        source = spectrum.detach().resolve_conj().contiguous()
        turned = rotation.detach().contiguous()
        out = torch.empty((rotation.shape[0], layout.count), dtype=spectrum.dtype)

        def part(rows: slice) -> None:
            compiled.gather_slices(source.numpy(), turned[rows].numpy(), x, y, scale, out[rows].numpy())

        _in_threads(part, rotation.shape[0])
        ctx.save_for_backward(source, turned)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        source, turned = ctx.saved_tensors
        gradient = gradients[0].resolve_conj().contiguous()
        x, y = _coordinates(ctx.layout, turned.dtype)
        spectrum_gradient = rotation_gradient = None
        if ctx.needs_input_grad[0]:
            spectrum_gradient = torch.zeros_like(source)
            compiled.scatter_slices(gradient.numpy(), turned.numpy(), x, y, ctx.scale, spectrum_gradient.numpy())
        if ctx.needs_input_grad[1]:
            rotation_gradient = torch.zeros_like(turned)
            arguments = (source.numpy(), turned.numpy(), x, y, ctx.scale, gradient.numpy())
            compiled.rotation_gradient(*arguments, rotation_gradient.numpy())
        return spectrum_gradient, rotation_gradient, None, None

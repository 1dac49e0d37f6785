"""How well a slice explains an image, and in which direction a better pose, defocus and amplitude lie.

An image y, divided by its noise so that every coefficient has the same weight, is compared with the model

    m(k) = A gain(k) sin(2 pi chi(k)) exp(-b |k|^2) exp(-2 pi i k.t) S(R^T (k, 0)),

S the trilinear value of a table of one volume. Of the logarithm of the likelihood, ``-|y - m|^2 / 2`` against an image of
noise alone, these are the value, the gradient J^T (y - m), and the matrix J^T J of Gauss and Newton, in seven parameters:

    0, 1, 2   a rotation vector w, radians, in the frame of the view: R becomes exp(w) R
    3, 4      the shift t (x, y), as a share of the box
    5         quadratic phase: chi becomes chi + q |k|^2, turns
    6         the logarithm of the amplitude A

On the CPU `compiled_normal_equations` does the work in one pass over the coefficients, on the GPU its torch twin in this
file, which forms J.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.numerics import compiled_normal_equations as compiled
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.spectrum_table import IMAGES_AT_ONCE, Table, TableLayout, table_corners

PARAMETERS = compiled.PARAMETERS


@final
@dataclass(frozen=True)
class Trials:
    """What is tried for images: every row is a trial for one of them; an image may have several.

    Attributes:
        image: which image of the batch a row is a trial for. rotation: object to view. turns: the shift as a share of the
            box. phase: (xx, xy, yy, quartic, constant) of chi, in turns, for indices k. envelope: b. group: which row of
            the gains holds. amplitude: A. All but ``image`` and ``group`` are float64.
    """

    image: Int[Tensor, " rows"]
    rotation: Float[Tensor, "rows 3 3"]
    turns: Float[Tensor, "rows 2"]
    phase: Float[Tensor, "rows 5"]
    envelope: Float[Tensor, " rows"]
    group: Int[Tensor, " rows"]
    amplitude: Float[Tensor, " rows"]


@final
@dataclass(frozen=True)
class NormalEquations:
    """Value, gradient and Gauss-Newton matrix of the logarithm of the likelihood, float64."""

    log_likelihood: Float[Tensor, " rows"]
    gradient: Float[Tensor, "rows 7"]
    matrix: Float[Tensor, "rows 7 7"]


def normal_equations(
    values: Float[Tensor, "images coefficients 2"],
    trials: Trials,
    table: Table,
    layout: TableLayout,
    plane: HalfPlane,
    gain: Float[Tensor, "groups coefficients"],
) -> NormalEquations:
    """Compare images with slices of a table of one volume: see the text of this module.

    Args:
        values: the images' coefficients on ``plane``, divided by their noise. gain: what they were multiplied by for it.
    """
    if table.device.type != "cpu":
        return normal_equations_by_parts(values, trials, table, layout, plane, gain)
    rows = len(trials.image)
    found = NormalEquations(
        torch.empty(rows, dtype=torch.float64),
        torch.empty(rows, PARAMETERS, dtype=torch.float64),
        torch.empty(rows, PARAMETERS, PARAMETERS, dtype=torch.float64),
    )
    single, double = torch.float32, torch.float64
    compiled.normal_equations(
        values.to(single).contiguous().numpy(),
        trials.image.contiguous().numpy(),
        table.numpy(),
        layout.starts.numpy(),
        layout.reach,
        plane.x.to(single).numpy(),
        plane.y.to(single).numpy(),
        float(layout.padding),
        trials.rotation.to(double).contiguous().numpy(),
        trials.turns.to(double).contiguous().numpy(),
        trials.phase.to(double).contiguous().numpy(),
        trials.envelope.to(double).contiguous().numpy(),
        gain.to(single).contiguous().numpy(),
        trials.group.contiguous().numpy(),
        trials.amplitude.to(double).contiguous().numpy(),
        found.log_likelihood.numpy(),
        found.gradient.numpy(),
        found.matrix.numpy(),
    )
    return found


def normal_equations_by_parts(
    values: Float[Tensor, "images coefficients 2"],
    trials: Trials,
    table: Table,
    layout: TableLayout,
    plane: HalfPlane,
    gain: Float[Tensor, "groups coefficients"],
) -> NormalEquations:
    """The torch twin of the compiled loop, for any device; in the precision of the table."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in torch.arange(len(trials.image), device=table.device).split(IMAGES_AT_ONCE):
        model, columns = model_and_derivative(trials, rows, table, layout, plane, gain)
        image = torch.view_as_complex(values[trials.image[rows]].to(table.dtype).contiguous())
        likelihood = (image.conj() * model).real.sum(-1) - model.abs().square().sum(-1) / 2
        flat = torch.view_as_real(columns).flatten(2)
        residual = torch.view_as_real(image - model).flatten(1)
        slope = (flat @ residual[..., None])[..., 0]
        parts.append((likelihood.double(), slope.double(), (flat @ flat.mT).double()))
    return NormalEquations(*(torch.cat(part) for part in zip(*parts, strict=True)))


def model_and_derivative(
    trials: Trials, rows: Tensor, table: Table, layout: TableLayout, plane: HalfPlane, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """The model (rows, coefficients) and its derivatives (rows, parameters, coefficients), complex."""
    kind = table.dtype
    x, y = plane.x.to(kind), plane.y.to(kind)
    squared = x * x + y * y
    rotation = trials.rotation[rows].to(kind)
    basis = torch.stack((x * x, x * y, y * y, squared * squared, torch.ones_like(x)))
    chi = 2 * math.pi * (trials.phase[rows].to(kind) @ basis)
    size = gain[trials.group[rows]].to(kind) * torch.exp(-trials.envelope[rows, None].to(kind) * squared)
    size = size * trials.amplitude[rows, None].to(kind)
    angle = -2 * math.pi * (trials.turns[rows].to(kind) @ torch.stack((x, y)))
    wave = torch.polar(torch.ones_like(angle), angle)
    value, slope = _values_and_slopes(table, layout, rotation, plane)
    # along the axes of the view: a rotation moves the point k by k x w
    view = layout.padding * torch.einsum("bij,bpj->bip", rotation.to(slope.dtype), slope)
    factor = size * chi.sin() * wave
    model = factor * value
    columns = (
        -y * factor * view[:, 2],
        x * factor * view[:, 2],
        factor * (y * view[:, 0] - x * view[:, 1]),
        -2j * math.pi * x * model,
        -2j * math.pi * y * model,
        2 * math.pi * squared * size * chi.cos() * wave * value,
        model,
    )
    return model, torch.stack(columns, dim=1)


def _values_and_slopes(table: Table, layout: TableLayout, rotation: Tensor, plane: HalfPlane) -> tuple[Tensor, Tensor]:
    """Slices (rows, coefficients), and their derivatives along the axes of the table (rows, coefficients, 3)."""
    index, weight, mirrored = table_corners(layout, rotation, plane)
    corners = torch.view_as_complex(table[index][..., 0].contiguous())
    value = (corners * weight).sum(-1)
    slopes: list[Tensor] = []
    for axis in range(3):
        # corners that differ along this axis only: the difference of their values, weighed as one
        low = torch.tensor([corner for corner in range(8) if not corner >> axis & 1], device=table.device)
        high = low + (1 << axis)
        edge = weight[..., low] + weight[..., high]
        slopes.append(((corners[..., high] - corners[..., low]) * edge).sum(-1))
    slope = torch.stack(slopes, dim=-1)
    mate = mirrored[..., None]
    return torch.where(mirrored, value.conj(), value), torch.where(mate, -slope.conj(), slope)

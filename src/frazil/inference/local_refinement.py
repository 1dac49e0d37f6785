"""The best pose, defocus and scale near a known one, for every particle: Levenberg and Marquardt's method.

Each step maximises the logarithm of the posterior in seven numbers at once: a small rotation, the shift, the defocus and the
scale. The likelihood, its gradient and the matrix of Gauss and Newton come from `numerics.normal_equations`; the
prior is a Gaussian around what was known. A particle may have several candidates, each refined on its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.numerics.fourier import HalfPlane
from frazil.numerics.normal_equations import PARAMETERS, Trials, normal_equations
from frazil.numerics.rotations import from_rotation_vector, to_rotation_vector
from frazil.numerics.spectrum_table import Table, TableLayout
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.physics.value import TensorValue

DEGREE = math.pi / 180
ITERATIONS = 12
# Marquardt's damping, relative to the diagonal of the matrix: at first, and how it falls and rises
FIRST_DAMPING, FALL, RISE = 1e-3, 0.1, 10.0
LEAST_DAMPING, MOST_DAMPING = 1e-8, 1e8
# a trial is done when a step promises less than this: much less than one, which is a standard deviation's worth
ENOUGH = 1e-3
# a step longer than this many degrees leaves the reach of a linear model: it is shortened
LONGEST_TURN = 10.0


@final
@dataclass(frozen=True)
class PriorWidths:
    """Standard deviations of what is refined around what was known; 0 keeps it as it is, infinity lets it free.

    Attributes:
        rotation: about each axis, degrees. shift: on each axis, Å. defocus: Å. scale: of its logarithm.
    """

    rotation: float = 5.0
    shift: float = 5.0
    defocus: float = 0.0
    scale: float = 0.0

    def as_tensor(self, device: torch.device | str = "cpu") -> Float[Tensor, " parameters"]:
        """One number for each of the seven parameters."""
        widths = [self.rotation] * 3 + [self.shift] * 2 + [self.defocus, self.scale]
        return torch.tensor(widths, dtype=torch.float64, device=device)


@final
@dataclass(frozen=True)
class Refined(TensorValue):
    """What refinement found, for every particle and candidate.

    Attributes:
        log_likelihood: of the image, against one of noise alone. log_prior: of what was found, against what was known.
        pose: the refined poses. defocus: to be added to both defoci of the particle, Å. scale: of the particle's density.
        covariance: posterior covariance of the rotation vector in the frame of the view (degrees) and the shift (Å).
        deviation: posterior standard deviations of the defocus (Å) and of the logarithm of the scale.
    """

    log_likelihood: Float[Tensor, "particles candidates"]
    log_prior: Float[Tensor, "particles candidates"]
    pose: Pose
    defocus: Float[Tensor, "particles candidates"]
    scale: Float[Tensor, "particles candidates"]
    covariance: Float[Tensor, "particles candidates 5 5"]
    deviation: Float[Tensor, "particles candidates 2"]

    @staticmethod
    def unrefined(pose: Pose) -> Refined:
        """What is known before: poses (particles, candidates), and nothing else."""
        shape = pose.shift.shape[:2]
        zero = torch.zeros(shape, dtype=torch.float64, device=pose.shift.device)
        return Refined(
            zero, zero, pose.to(torch.float64), zero, zero + 1, zero.new_zeros(*shape, 5, 5), zero.new_zeros(*shape, 2)
        )

    def drawn(self, normal: Float[Tensor, "particles candidates 5"]) -> Pose:
        """Poses drawn from the posterior, the normal distribution of `covariance` around the refined ones.

        Args:
            normal: standard normal numbers, float64.
        """
        values, axes = torch.linalg.eigh((self.covariance + self.covariance.mT).double() / 2)
        # the symmetric root: eigenvectors have no sign
        root = axes * values.clamp(min=0).sqrt()[..., None, :] @ axes.mT
        off = (root @ normal[..., None])[..., 0]
        rotation = from_rotation_vector(off[..., :3] * DEGREE) @ self.pose.rotation.double()
        return Pose(rotation.to(self.pose.rotation), self.pose.shift + off[..., 3:].to(self.pose.shift))

    def tensors(self) -> dict[str, Tensor]:
        """Every number by its name; `of_tensors` takes them back."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "pose"}
        return own | {"rotation": self.pose.rotation, "shift": self.pose.shift}

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> Refined:
        """What `tensors` gave."""
        rest = {name: tensor for name, tensor in tensors.items() if name not in ("rotation", "shift")}
        return Refined(pose=Pose(tensors["rotation"], tensors["shift"]), **rest)


def refine_poses(
    values: Float[Tensor, "particles coefficients 2"],
    pose: Pose,
    optics: Optics | None,
    grid: Grid,
    plane: HalfPlane,
    gain: Float[Tensor, "groups coefficients"],
    group: Int[Tensor, " particles"],
    table: Table,
    layout: TableLayout,
    prior: PriorWidths,
    start: Refined | None = None,
    iterations: int = ITERATIONS,
) -> Refined:
    """Refine candidates of a batch of particles against one volume. One thread does it: call it for batches in several.

    The model is that of `numerics.normal_equations`, so all is joint: an error of the defocus is not paid for by the pose.

    Args:
        values: whitened coefficients of the images on ``plane``, not centred, or centred by a shift that ``pose.shift`` is
            then relative to. plane: a half-plane of the grid; a lower band looks at low frequencies only.
        pose: what is known, (particles, candidates): the centre of the prior. optics: of the particles; None takes the CTF
            for 1, and the defocus is then left alone.
        gain: what coefficients were multiplied by to whiten them, for each optics group. group: the particles'.
        table: the spectrum of one volume. prior: how well what is known is known.
        start: where to begin, if not at what is known. iterations: comparisons of an image with a slice, at most.
    """
    batch, candidates = pose.shift.shape[:2]
    trials = _Trials(values, pose, optics, grid, plane, gain, group, table, layout, prior, candidates)
    here = trials.first(pose, start)
    damping = torch.full_like(here.objective, FIRST_DAMPING)
    going = torch.arange(len(damping), device=damping.device)
    for _ in range(iterations - 1):
        step, promise = trials.step(here[going], damping[going])
        going, step = going[promise > ENOUGH], step[promise > ENOUGH]
        if len(going) == 0:
            break
        tried = trials.at(going, here[going], step)
        better = tried.objective > here.objective[going]
        here = here.replaced(going[better], tried[better])
        factor = torch.where(better, FALL, RISE).to(damping)
        damping[going] = (damping[going] * factor).clamp(LEAST_DAMPING, MOST_DAMPING)
    return trials.result(here, pose, batch)


@final
@dataclass(frozen=True)
class _Place(TensorValue):
    """Where trials are, and what is known there; a row for each trial.

    Attributes:
        objective: log posterior. gradient, matrix: of the log posterior, in degrees, Å and logarithms.
        offset: from what is known, in the same units. rotation, shift: the pose.
    """

    objective: Float[Tensor, " rows"]
    gradient: Float[Tensor, "rows 7"]
    matrix: Float[Tensor, "rows 7 7"]
    offset: Float[Tensor, "rows 7"]
    rotation: Float[Tensor, "rows 3 3"]


@final
class _Trials:
    """All that stays the same while poses are refined."""

    def __init__(
        self, values: Tensor, pose: Pose, optics: Optics | None, grid: Grid, plane: HalfPlane, gain: Tensor,
        group: Tensor, table: Table, layout: TableLayout, prior: PriorWidths, candidates: int,
    ) -> None:  # fmt: skip
        device = values.device
        self.values, self.plane, self.gain, self.table, self.layout = values, plane, gain, table, layout
        self.image = torch.arange(len(values), device=device).repeat_interleave(candidates)
        self.group = group[self.image]
        self.rotation, self.shift = pose.rotation.flatten(0, 1).double(), pose.shift.flatten(0, 1).double()
        self.extent = grid.extent
        self.phase, self.envelope, rate = (part[self.image] for part in imaging(optics, grid, len(values), device))
        width = prior.as_tensor(device)
        if optics is None:
            width[5] = 0
        self.fixed = width == 0
        self.precision = torch.where(self.fixed, 0, width.clamp(min=1e-30) ** -2)
        # units of the parameters in those of the normal equations
        unit = torch.tensor([DEGREE] * 3 + [1 / grid.extent] * 2 + [1, 1], dtype=torch.float64, device=device)
        self.unit = unit.expand(len(self.image), PARAMETERS).clone()
        self.unit[:, 5] = rate
        self.all = torch.arange(len(self.image), device=device)

    def first(self, pose: Pose, start: Refined | None) -> _Place:
        offset = torch.zeros(len(self.image), PARAMETERS, dtype=torch.float64, device=self.values.device)
        if start is None:
            return self._place(self.all, self.rotation, offset)
        rotation = start.pose.rotation.flatten(0, 1).double()
        offset[:, 3:5] = start.pose.shift.flatten(0, 1).double() - self.shift
        offset[:, 5], offset[:, 6] = start.defocus.flatten().double(), start.scale.flatten().double().log()
        return self._place(self.all, rotation, torch.where(self.fixed, 0, offset))

    def at(self, rows: Tensor, here: _Place, step: Tensor) -> _Place:
        """One step on from a place."""
        rotation = from_rotation_vector(step[:, :3] * DEGREE) @ here.rotation
        return self._place(rows, rotation, here.offset + step)

    def _place(self, rows: Tensor, rotation: Tensor, offset: Tensor) -> _Place:
        offset = offset.clone()
        offset[:, :3] = to_rotation_vector(rotation @ self.rotation[rows].mT) / DEGREE
        phase = self.phase[rows].clone()
        quadratic = offset[:, 5] * self.unit[rows, 5]
        phase[:, 0] += quadratic
        phase[:, 2] += quadratic
        turns = (self.shift[rows] + offset[:, 3:5]) / self.extent
        trials = Trials(
            self.image[rows], rotation, turns, phase, self.envelope[rows], self.group[rows], offset[:, 6].exp()
        )
        found = normal_equations(self.values, trials, self.table, self.layout, self.plane, self.gain)
        unit = self.unit[rows]
        matrix = found.matrix * unit[:, :, None] * unit[:, None, :] + self.precision.diag()
        gradient = found.gradient * unit - self.precision * offset
        matrix[:, self.fixed], matrix[:, :, self.fixed], gradient[:, self.fixed] = 0, 0, 0
        matrix[:, self.fixed, self.fixed] = 1
        return _Place(found.log_likelihood + self._log_prior(offset), gradient, matrix, offset, rotation)

    def _log_prior(self, offset: Tensor) -> Tensor:
        return -0.5 * (self.precision * offset.square()).sum(-1)

    def step(self, here: _Place, damping: Tensor) -> tuple[Tensor, Tensor]:
        """The damped step, and how much it promises."""
        diagonal = here.matrix.diagonal(dim1=1, dim2=2)
        damped = here.matrix + torch.diag_embed(diagonal * damping[:, None] + 1e-30)
        step = _solved(damped, here.gradient[..., None])[..., 0]
        turn = step[:, :3].norm(dim=-1, keepdim=True)
        step = step * (LONGEST_TURN / turn.clamp(min=LONGEST_TURN))
        return step, (step * here.gradient).sum(-1) / 2

    def result(self, here: _Place, pose: Pose, batch: int) -> Refined:
        identity = torch.eye(PARAMETERS, dtype=torch.float64, device=self.values.device)
        covariance = _solved(here.matrix, identity.expand_as(here.matrix))
        covariance = covariance * (~self.fixed)[:, None] * (~self.fixed)
        log_prior = self._log_prior(here.offset)
        parts = (
            here.objective - log_prior,
            log_prior,
            here.rotation.to(pose.rotation.dtype),
            (self.shift + here.offset[:, 3:5]).to(pose.shift.dtype),
            here.offset[:, 5],
            here.offset[:, 6].exp(),
            covariance[:, :5, :5],
            covariance.diagonal(dim1=1, dim2=2)[:, 5:].clamp(min=0).sqrt(),
        )
        likelihood, log_prior, rotation, shift, *others = (
            part.unflatten(0, (batch, -1)) if batch else part.reshape(*pose.shift.shape[:2], *part.shape[1:])
            for part in parts
        )
        return Refined(likelihood, log_prior, Pose(rotation, shift), *others)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions of symmetric systems whose unknowns may differ in size by many orders; 0 where there is none."""
    size = matrix.diagonal(dim1=1, dim2=2).clamp(min=1e-30).rsqrt()
    balanced = matrix * size[:, :, None] * size[:, None, :]
    factor, failed = torch.linalg.cholesky_ex(balanced)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor = torch.where((failed > 0)[:, None, None], identity, factor)
    solution = torch.cholesky_solve(right * size[:, :, None], factor) * size[:, :, None]
    return torch.where((failed > 0)[:, None, None], 0, solution)


def imaging(
    optics: Optics | None, grid: Grid, count: int, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "images 5"], Float[Tensor, " images"], Float[Tensor, " images"]]:
    """The optics in the terms of `Trials`: phase polynomial, envelope, and the quadratic phase (turns) of 1 Å of defocus."""
    if optics is None:
        phase = torch.zeros(count, 5, dtype=torch.float64, device=device)
        phase[:, 4] = 0.25  # a quarter turn: the CTF is 1
        nothing = torch.zeros(count, dtype=torch.float64, device=device)
        return phase, nothing, nothing
    double = optics.to(torch.float64)
    step = grid.frequency_step
    powers = torch.tensor([step**2, step**2, step**2, step**4, 1.0], dtype=torch.float64, device=device)
    phase = double.phase_polynomial().to(device) / (2 * math.pi) * powers
    envelope = (double.b_factor * step**2 / 4).to(device)
    # chi = pi lambda defocus s^2
    return phase, envelope, (double.wavelength * step**2 / 2).to(device)

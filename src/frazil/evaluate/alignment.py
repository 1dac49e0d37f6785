"""Map onto map: the rotation, hand and shift that bring a result closest to the truth, found by search.

With ``x_result = turn (x_true + offset)`` the spectrum of the result seen from the truth is

    F'(k) = exp(2 pi i k.offset) F_result(turn k),

and a mirrored result (``turn = -Q``) has the conjugate of what Q gives: one look-up serves both hands. All offsets at
once are one inverse transform of ``conj(F_true) F'``. The amplitudes of every shell are made equal, so that fine detail
counts where there is some. The search begins on a grid over all rotations; the best are refined in a band that grows to
where the maps no longer agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from frazil.errors import InputError
from frazil.evaluate.frame import Frame
from frazil.numerics.rotations import from_euler_zyz, from_rotation_vector, geodesic_angle
from frazil.numerics.shells import shell_power
from frazil.physics.grid import Grid

# HEALPix parameter of the viewing directions (15 degrees apart), and in-plane angles
DIRECTIONS, TURNS = 4, 24
# shells in which rotations are searched: few tell what an asymmetric molecule needs, more what a nearly round one needs
COARSE_BANDS = (8, 16)
# candidates of each band that are refined, and degrees between them
CANDIDATES, APART = 10, 12.0
# candidates this close to the best are refined to the end, so many at most; results this close fit alike
WORTH_A_TRY, FINALISTS, ALIKE = 0.02, 3, 0.002
# steps of the refinement of a candidate
ROUGHLY = 12
# maps agree in a shell when their correlation is above this; no shell beyond the last is asked
AGREEMENT, LAST_SHELL = 0.3, 32
ROTATIONS_AT_ONCE = 64


@final
@dataclass(frozen=True)
class MapAlignment:
    """Where a map lies in the frame of another.

    Attributes:
        frame: of the result. correlation: of all coefficients in the band, amplitudes of each shell made equal. band:
            last shell that took part.
    """

    frame: Frame
    correlation: float
    band: int


def align_maps(result: Float[Tensor, "n n n"], truth: Float[Tensor, "n n n"], grid: Grid) -> MapAlignment:
    """The frame of one map in that of another, both on one grid.

    Of frames that fit alike, as those of an object with symmetry do, the one that turns the result least.

    Raises:
        InputError: if a map is empty.
    """
    last = min(grid.last_shell - 1, LAST_SHELL)
    spectrum, reference = _Spectrum.of(result), _Spectrum.of(truth)
    # a second band that is hardly wider tells nothing new
    bands = [band for band in COARSE_BANDS if band <= last] or [last]
    found: list[_Candidate] = []
    for band in bands:
        for candidate in _search(spectrum, reference, band):
            for step in (each for each in bands if each >= band):
                candidate = _refine(candidate, spectrum, reference, step, ROUGHLY)
            found.append(candidate)
    finished: list[MapAlignment] = []
    for candidate in _finalists(found):
        band = bands[-1]
        for _ in range(4):
            wider = _agreeing_band(candidate, spectrum, reference, last)
            if wider <= band:
                break
            # not much at a time: far out, only what is nearly aligned agrees
            band = min(wider, 2 * band)
            candidate = _refine(candidate, spectrum, reference, band)
        turn = -candidate.turn if candidate.mirrored else candidate.turn
        finished.append(MapAlignment(Frame(turn, candidate.offset * grid.extent), candidate.correlation, band))
    # who agrees further out is right; a correlation compares only within one band
    furthest = max(each.band for each in finished)
    far = [each for each in finished if each.band >= furthest - 1]
    best = max(each.correlation for each in far)
    return min((each for each in far if each.correlation > best - ALIKE), key=lambda each: each.frame.degrees)


def _finalists(found: list[_Candidate]) -> list[_Candidate]:
    """Of the candidates that fit about as well as the best, the first few and the one that is turned least."""
    best = max(each.correlation for each in found)
    good = sorted((each for each in found if each.correlation > best - WORTH_A_TRY), key=lambda each: -each.correlation)
    least = min(good, key=lambda each: float(geodesic_angle(each.turn, torch.eye(3, dtype=each.turn.dtype))))
    chosen: list[_Candidate] = []
    for each in (least, *good):
        near = (
            float(geodesic_angle(one.turn, each.turn)) < math.radians(2)
            for one in chosen
            if one.mirrored == each.mirrored
        )
        if not any(near):
            chosen.append(each)
    return chosen[:FINALISTS]


def alignment_figures(found: MapAlignment) -> dict[str, Any]:
    """The alignment in numbers: degrees, Å, and the band's last shell."""
    return {
        "mirrored": found.frame.mirrored,
        "turned_by": found.frame.degrees,
        "moved_by": float(found.frame.offset.norm()),
        "correlation": found.correlation,
        "last_shell": found.band,
        "rotation": found.frame.turn.tolist(),
        "offset": found.frame.offset.tolist(),
    }


@final
@dataclass(frozen=True)
class _Candidate:
    """A rotation (object to result, of the inverted result when mirrored) and an offset in box sides."""

    turn: Float[Tensor, "3 3"]
    mirrored: bool
    offset: Float[Tensor, " 3"]
    correlation: float


@final
@dataclass(frozen=True)
class _Spectrum:
    """A map's spectrum, shells of equal power, to be looked up between its coefficients.

    Attributes:
        values: (1, 2, m, m, m) real and imaginary parts on a grid twice as fine, origin in the middle. box_size: of the map.
    """

    values: Float[Tensor, "1 2 m m m"]
    box_size: int

    @staticmethod
    def of(volume: Float[Tensor, "n n n"]) -> _Spectrum:
        """The spectrum of a map, twice as fine as its box gives."""
        n = volume.shape[-1]
        plain = volume.double() - volume.double().mean()
        if float(plain.abs().max()) == 0:
            raise InputError("an empty map cannot be aligned", remedy="give a map that shows something")
        before = n - n // 2
        padded = pad(plain, (before, n - before) * 3)
        spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded)))
        axis = torch.arange(2 * n, dtype=torch.float64) - n
        shell = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt() / 2
        # interpolated between the shells, so that neighbouring coefficients keep their ratio
        strength = _shell_amplitudes(plain)
        low = shell.floor().long().clamp(max=len(strength) - 2)
        part = (shell - low).clamp(max=1)
        amplitude = torch.lerp(strength[low], strength[low + 1], part)
        flat = torch.where(shell < n / 2, spectrum / amplitude, 0)
        return _Spectrum(torch.view_as_real(flat).movedim(-1, 0)[None].float().contiguous(), n)

    def at(self, points: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch"]:
        """Values at frequencies (x, y, z) in units of one over the box, between coefficients linearly."""
        size = self.values.shape[-1]
        where = (2 * points + size // 2) * (2 / (size - 1)) - 1
        flat = where.reshape(1, -1, 1, 1, 3)
        found = grid_sample(self.values, flat.float(), align_corners=True)[0, :, :, 0, 0]
        return torch.complex(found[0], found[1]).reshape(points.shape[:-1])


def _shell_amplitudes(volume: Tensor) -> Float[Tensor, " shells"]:
    """Root mean square amplitude of each shell; those nearly empty count as if they had a thousandth of the strongest."""
    found = shell_power(volume).clamp(min=0).sqrt()
    return found + 1e-3 * found[1:].max()


def _half_ball(band: int) -> Int[Tensor, "coefficients 3"]:
    """Integer frequencies (x, y, z) out to a radius, one of each pair of mates, without the origin."""
    axis = torch.arange(-band, band + 1)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    first = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    keep = first & (x**2 + y**2 + z**2 <= band**2)
    return torch.stack([x[keep], y[keep], z[keep]], dim=-1)


def _all_rotations() -> Float[Tensor, "rotations 3 3"]:
    """HEALPix directions with in-plane angles; the identity first, for maps that lie as they should."""
    import healpy

    tilt, rot = healpy.pix2ang(DIRECTIONS, np.arange(healpy.nside2npix(DIRECTIONS)))
    turn = np.arange(TURNS) * (2 * math.pi / TURNS)
    psi = torch.from_numpy(np.tile(turn, len(rot)))
    grid = from_euler_zyz(torch.from_numpy(np.repeat(rot, TURNS)), torch.from_numpy(np.repeat(tilt, TURNS)), psi)
    return torch.cat([torch.eye(3, dtype=torch.float64)[None], grid])


def _search(spectrum: _Spectrum, reference: _Spectrum, band: int) -> list[_Candidate]:
    """The best rotations of the grid with the best offset of each, none close to a better one."""
    ball = _half_ball(band)
    target = reference.at(ball.double()).conj()
    side = 2 * band + 2
    places = (ball[:, 2] % side, ball[:, 1] % side, ball[:, 0])
    rotations = _all_rotations()
    scores, where = [], []
    for some in rotations.split(ROTATIONS_AT_ONCE):
        looked_up = spectrum.at(torch.einsum("rij,kj->rki", some, ball.double()))
        for seen in (looked_up, looked_up.conj()):
            product = torch.zeros(len(some), side, side, side // 2 + 1, dtype=torch.complex64)
            product[:, *places] = target * seen
            # the plane of mates is given whole
            mates = (ball[:, 0] == 0).nonzero()[:, 0]
            product[:, -ball[mates, 2] % side, -ball[mates, 1] % side, 0] = (target * seen)[:, mates].conj()
            agreement = torch.fft.irfftn(product, s=(side,) * 3, dim=(1, 2, 3)).flatten(1)
            best = agreement.max(dim=1)
            scores.append(best.values)
            where.append(best.indices)
    # blocks alternate between the two hands
    hands = torch.cat([torch.full((len(values),), block % 2) for block, values in enumerate(scores)])
    numbers = torch.arange(len(rotations)).split(ROTATIONS_AT_ONCE)
    rows = torch.cat([each for each in numbers for _ in range(2)])
    score, place = torch.cat(scores), torch.cat(where)
    chosen: list[_Candidate] = []
    for index in score.argsort(descending=True).tolist():
        turn, mirrored = rotations[rows[index]], bool(hands[index])
        near = math.radians(APART)
        if any(mirrored == one.mirrored and float(geodesic_angle(one.turn, turn)) < near for one in chosen):
            continue
        z, y, x = np.unravel_index(int(place[index]), (side,) * 3)
        offset = (torch.tensor([x, y, z], dtype=torch.float64) + side // 2) % side - side // 2
        chosen.append(_Candidate(turn, mirrored, offset / side, float(score[index])))
        if len(chosen) == CANDIDATES:
            break
    return chosen


def _refine(candidate: _Candidate, spectrum: _Spectrum, reference: _Spectrum, band: int, steps: int = 40) -> _Candidate:
    """The nearest best rotation and offset in a band (BFGS with exact gradients)."""
    from scipy.optimize import minimize

    agreement = _agreement(candidate, spectrum, reference, band)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        change = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        negative = -agreement(change)
        negative.backward()
        assert change.grad is not None
        return float(negative.detach()), change.grad.numpy()

    found = minimize(loss, np.zeros(6), jac=True, method="BFGS", options={"maxiter": steps, "gtol": 1e-5})
    change = torch.from_numpy(found.x)
    turn = candidate.turn @ from_rotation_vector(change[:3])
    return _Candidate(turn, candidate.mirrored, candidate.offset + change[3:] / 4, -float(found.fun))


def _agreement(
    candidate: _Candidate, spectrum: _Spectrum, reference: _Spectrum, band: int
) -> Callable[[Float[Tensor, " 6"]], Tensor]:
    """The correlation as a function of a further rotation vector and a further offset, in quarters of the box."""
    ball = _half_ball(band).double()
    target = reference.at(ball)
    length = target.abs().square().sum().sqrt()

    def correlation(change: Float[Tensor, " 6"]) -> Tensor:
        turn = candidate.turn @ from_rotation_vector(change[:3])
        seen = spectrum.at(ball @ turn.T)
        seen = seen.conj() if candidate.mirrored else seen
        angle = 2 * math.pi * (ball @ (candidate.offset + change[3:] / 4))
        seen = seen * torch.polar(torch.ones_like(angle), angle)
        return (target.conj() * seen).real.sum() / (length * seen.abs().square().sum().sqrt())

    return correlation


def _agreeing_band(candidate: _Candidate, spectrum: _Spectrum, reference: _Spectrum, last: int) -> int:
    """The last shell before the aligned maps cease to agree."""
    ball = _half_ball(last).double()
    seen = spectrum.at(ball @ candidate.turn.T)
    seen = seen.conj() if candidate.mirrored else seen
    angle = 2 * math.pi * (ball @ candidate.offset)
    seen, target = seen * torch.polar(torch.ones_like(angle), angle), reference.at(ball)
    shell = ball.norm(dim=1).round().long()

    def total(values: Tensor) -> Tensor:
        return torch.zeros(last + 1, dtype=torch.float64).index_add_(0, shell, values.double())

    power = total(seen.abs().square()) * total(target.abs().square())
    curve = total((target.conj() * seen).real) / power.sqrt().clamp(min=1e-12)
    below = (curve[1:] < AGREEMENT).nonzero()
    return int(below[0]) if len(below) else last

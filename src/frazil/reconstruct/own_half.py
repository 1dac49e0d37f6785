"""Passes over all particles, each compared with the map of its own half-set: poses, noise, and the phases of a beam tilt."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.inference.beam_tilt import PhaseSums, beam_tilt_phase
from frazil.inference.local_refinement import PriorWidths, Refined, refine_poses
from frazil.inference.streamed import one_thread_per_operation
from frazil.numerics.fourier import HalfPlane
from frazil.numerics.spectrum_table import Table, TableLayout, gather_table
from frazil.physics.pose import Pose
from frazil.reconstruct.whitened import WhitenedImages

# neighbours that a thread takes at once, and particles of a half-set whose residual is taken for noise
AT_ONCE, NOISE_SAMPLE = 256, 1000

# (half-set, rows in working order, rows of the stack, whitened values, transfer functions) -> what is found of them
Work = Callable[[int, slice, Tensor, Tensor, Tensor], None]


@final
@dataclass(frozen=True)
class OwnHalf:
    """Particles and the maps of both half-sets.

    Attributes:
        images: whitened, centred and freed from tilt by ``known`` and the stack's optics. known: poses of the stack, one
            candidate each, in its order. tilt: (x, y) of each optics group that the stack does not know of, mrad.
        tables: of the maps of both halves. layout, plane: of the band that is looked at.
    """

    images: WhitenedImages
    known: Pose
    tilt: Float[Tensor, "groups 2"]
    tables: tuple[Table, Table]
    layout: TableLayout
    plane: HalfPlane

    def refined(self, start: Refined, prior: PriorWidths) -> Refined:
        """Every particle refined around what is known, from a start; in the order of the stack.

        A meeting of the processes that share the images.
        """
        images = self.images
        out = {name: torch.zeros_like(tensor[images.order]) for name, tensor in start.tensors().items()}
        gain = images.gain[:, : self.plane.count].contiguous()
        # images are centred by what is known: shifts are told relative to it
        begin = replace(start, pose=Pose(start.pose.rotation, start.pose.shift - self.known.shift))
        centred = Pose(self.known.rotation, torch.zeros_like(self.known.shift))

        def work(half: int, some: slice, rows: Tensor, values: Tensor, transfer: Tensor) -> None:
            found = refine_poses(
                values, centred[rows], None if images.optics is None else images.optics[some], images.grid, self.plane,
                gain, images.group[some], self.tables[half], self.layout, prior, begin[rows],
            )  # fmt: skip
            for name, tensor in found.tensors().items():
                out[name][some] = tensor.to(out[name].dtype)

        self._each(work)
        merged: dict[str, Tensor] = {}
        for name, tensor in out.items():
            parts = [images.processes.gather(tensor[own.start : own.stop]) for own in map(images.own, (0, 1))]
            merged[name] = torch.empty_like(tensor)
            merged[name][images.order] = torch.cat(parts)
        found = Refined.of_tensors(merged)
        return replace(found, pose=Pose(found.pose.rotation, found.pose.shift + self.known.shift))

    def residual(self, found: Refined) -> Float[Tensor, "groups shells"]:
        """Power of what the model leaves of the images, over that of the noise they were whitened by; 1 where unknown.

        A meeting of the processes that share the images.
        """
        images, shells = self.images, self.plane.band + 1
        power = torch.zeros(images.groups, self.plane.count, dtype=torch.float64)
        number = torch.zeros(images.groups, dtype=torch.float64)

        def left(half: int, some: slice, rows: Tensor, values: Tensor, transfer: Tensor) -> None:
            difference = values - self._model(half, some, rows, found)
            group = images.group[some]
            part = torch.zeros_like(power).index_add_(0, group, difference.square().sum(-1).double())
            sums.append((some.start, part, torch.bincount(group, minlength=images.groups).double()))

        sums: list[tuple[int, Tensor, Tensor]] = []
        self._each(left, NOISE_SAMPLE)
        for _, part, count in sorted(sums, key=lambda entry: entry[0]):
            power += part
            number += count
        images.processes.sum((power, number))
        by_shell = torch.zeros(images.groups, shells, dtype=torch.float64).index_add_(1, self.plane.shell, power)
        coefficients = torch.bincount(self.plane.shell, minlength=shells) * number[:, None]
        # whitened noise has a power of 2 in a complex coefficient
        ratio = torch.where(coefficients > 0, by_shell / (2 * coefficients.clamp(min=1)), 1)
        # the origin is left out of all comparisons
        ratio[:, 0] = 1
        return torch.where(ratio > 0, ratio, 1).float()

    def phases(self, found: Refined) -> list[PhaseSums | None]:
        """For every optics group what its particles say of a beam tilt; None for a group without particles.

        A meeting of the processes that share the images.
        """
        images = self.images
        parts: list[tuple[int, dict[int, PhaseSums]]] = []

        def told(half: int, some: slice, rows: Tensor, values: Tensor, transfer: Tensor) -> None:
            model, group = self._model(half, some, rows, found), images.group[some]
            members = {int(g): group == g for g in group.unique()}
            parts.append((some.start, {g: PhaseSums.of(values[one], model[one]) for g, one in members.items()}))

        self._each(told)
        products = torch.zeros(images.groups, self.plane.count, 2, dtype=torch.float64)
        power = torch.zeros(images.groups, self.plane.count, dtype=torch.float64)
        for _, part in sorted(parts, key=lambda entry: entry[0]):
            for group, sums in part.items():
                products[group] += torch.view_as_real(sums.products)
                power[group] += sums.power
        images.processes.sum((products, power))
        return [
            PhaseSums(torch.view_as_complex(q.contiguous()), p) if bool(p.any()) else None
            for q, p in zip(products, power, strict=True)
        ]

    def _model(self, half: int, some: slice, rows: Tensor, found: Refined) -> Float[Tensor, "batch coefficients 2"]:
        """The whitened images that the maps predict, as they are stored."""
        images, here = self.images, found[rows]
        factor = images.gain[images.group[some], : self.plane.count] * here.scale.float()
        if images.optics is not None:
            optics = images.optics[some]
            more = here.defocus[:, 0].to(optics.voltage)
            optics = replace(optics, defocus_u=optics.defocus_u + more, defocus_v=optics.defocus_v + more)
            factor = factor * optics.ctf(images.grid, self.plane).float()
        rotation = here.pose.rotation[:, 0].float().contiguous()
        slices = gather_table(self.tables[half], self.layout, rotation, self.plane, factor)[..., 0]
        aside = Pose(rotation, (here.pose.shift - self.known.shift[rows])[:, 0].float())
        moved = torch.view_as_complex(slices.contiguous()) * aside.shift_phase(images.grid, self.plane)
        return torch.view_as_real(moved)

    def _each(self, work: Work, sample: int | None = None) -> None:
        """Work on all images of this process, or evenly spaced runs of a sample of each half-set, a run in a thread."""
        images = self.images

        def do(piece: tuple[int, range]) -> None:
            half, run = piece

            def batch(some: slice, values: Tensor, transfer: Tensor) -> None:
                if some.stop > some.start:
                    work(half, some, images.order[some], self._without_tilt(values, some), transfer)

            images.each(run, self.plane.count, 1, batch)

        with one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
            list(pool.map(do, self._pieces(sample)))

    def _pieces(self, sample: int | None) -> list[tuple[int, range]]:
        pieces: list[tuple[int, range]] = []
        for half in (0, 1):
            own = self.images.own(half)
            runs = [own[first : first + AT_ONCE] for first in range(0, len(own), AT_ONCE)]
            # a sample is the beginning of every run: the images of all directions have their share
            share = 1.0 if sample is None else min(1.0, sample / max(len(own), 1))
            pieces += [(half, run[: max(1, round(len(run) * share))]) for run in runs]
        return pieces

    def _without_tilt(self, values: Tensor, some: slice) -> Tensor:
        images = self.images
        if images.optics is None or not bool(self.tilt.any()):
            return values
        optics = images.optics[some]
        phase = beam_tilt_phase(self.tilt[images.group[some]], images.grid, self.plane, optics.voltage, optics.cs)
        turned = torch.view_as_complex(values.contiguous()) * torch.polar(torch.ones_like(phase), phase)
        return torch.view_as_real(turned)

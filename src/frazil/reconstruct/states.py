"""Discrete states: each has a map of its own, and every image is weighed between them.

Expectation is Bayes' rule over the states, each image with a contrast of its own. With memberships known every map is a
weighted backprojection, so maximisation is exact: in every voxel the sum of what images say, divided by how much they say.
A map is the mean of all states plus a difference. Differences are kept as they are measured, where the density changes; when
images are compared with them they are shrunk as far as the half-sets disagree, all states together: see `Agreement`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frazil.inference.coefficient_posteriors import MixturePrior
from frazil.numerics.spectrum_table import (
    Table,
    complete_axis_plane,
    gather_table,
    scatter_shares,
    shell_means,
    symmetrise_table,
    volumes_of_table,
)
from frazil.reconstruct.agreement import FIRST_CORRELATIONS, Agreement, directions_between
from frazil.reconstruct.expectation import in_both_halves
from frazil.reconstruct.linear import WIDEST_SCALE, Halves, at_one
from frazil.reconstruct.maximisation import LEAST_CORRELATION, MOST_CORRELATION, Stage, Volumes
from frazil.reconstruct.region import region_of_change
from frazil.reconstruct.whitened import WhitenedImages

# shells of a map that images say less of than this share are left weaker than they are
LEAST_KEPT = 0.05
# an image adds nothing to a state that it belongs to less than this
LEAST_MEMBERSHIP = 1e-3
# a voxel of a map counts as if so much of the coverage of its shell were added, with no signal
UNEVEN = 0.3
# the contrast goes on being measured where it hardly varies
LEAST_SPREAD = 0.01
# variance within a state, of one between them: states are discrete, but no particle is placed with certainty
LEAST_VARIANCE = 1e-3

# whose maps images are compared with: those of their own half-set, of the other, or of both together. Images that are in the
# average they are compared with are drawn to it, the more the fewer it has; but both halves know more than one
Maps = Literal["own", "other", "both"]
Rows = tuple[Int[Tensor, " a"], Int[Tensor, " b"]]
Members = tuple[Float[Tensor, "a states"], Float[Tensor, "b states"]]
Contrasts = tuple[Float[Tensor, "a 2"], Float[Tensor, "b 2"]]
Sums = Float[Tensor, "states voxels 2 2"]


@final
@dataclass(frozen=True)
class States:
    """The maps of all states in two half-sets.

    Attributes:
        a, b: one map for each state. share: of the images in each state.
    """

    a: Volumes
    b: Volumes
    share: Float[Tensor, " states"]

    @property
    def count(self) -> int:
        """Number of states."""
        return len(self.share)

    def differing_in(self, region: Float[Tensor, "n n n"]) -> States:
        """The same mean, and states that differ from it as far as the region goes."""

        def kept(maps: Volumes) -> Volumes:
            mean = torch.tensordot(self.share, maps, 1)
            return mean + (maps - mean) * region

        return replace(self, a=kept(self.a), b=kept(self.b))


@final
@dataclass(frozen=True)
class Sorter:
    """Sorts images into states at one band limit.

    Attributes:
        images, stage: what is looked at. mask: of the mean, and of what states differ by. spread: of the contrast.
        scale: E[s] and E[s^2] of the contrast of every image.
        caution: power to which the correlation of differences is raised before it is believed. Images chosen for their
            likeness to a map carry its noise into their own average, and half-sets sorted by the same maps agree too well.
    """

    images: WhitenedImages
    stage: Stage
    mask: Float[Tensor, "2 n n n"]
    spread: float
    scale: Float[Tensor, "images 2"]
    caution: float = 1.0

    @property
    def shells(self) -> int:
        """Number of shells of a table."""
        return int(self.stage.layout.nearest_shell.max()) + 1

    def all_rows(self) -> Rows:
        """The images of both half-sets."""
        a, b = self.images.half(0), self.images.half(1)
        return torch.arange(a.start, a.stop), torch.arange(b.start, b.stop)

    def averaged(self, rows: Rows, members: Members) -> States:
        """The maps of images whose memberships are known."""
        sums = self._sums(rows, members, (self.scale[rows[0]], self.scale[rows[1]]))
        return self.maximised(sums, members, torch.full((self.shells,), FIRST_CORRELATIONS[0]))

    def tables(self, states: States, by: Maps) -> tuple[Table, Table]:
        """What the images of each half are compared with."""
        tables = self.stage.tables((states.a, states.b))
        return self._believed(tables, states.share, self._agreement(tables, states.share), by)

    def _agreement(self, tables: tuple[Table, Table], share: Tensor) -> Agreement:
        return Agreement.between(*tables, share, self.stage.layout).cautious(self.caution)

    def _believed(self, tables: tuple[Table, Table], share: Tensor, known: Agreement, by: Maps) -> tuple[Table, Table]:
        layout = self.stage.layout
        if by == "both":
            common = known.of_both(*tables, share, layout)
            return common, common
        a, b = (known.of_half(table, share, layout) for table in tables)
        return (a, b) if by == "own" else (b, a)

    def step(
        self, states: States, rows: Rows, by: Maps, *, assumed: bool = False, alone: bool = False
    ) -> tuple[States, Members, Sorter, float]:
        """One round of expectation and maximisation over some images.

        Args:
            by: whose maps images are compared with.
            assumed: states are taken to differ by what their maps show, which is hardly more than chance yet.
            alone: an image counts in the map of its likeliest state alone.

        Returns:
            The new maps, the memberships, the sorter with the contrasts found, and the mean log evidence of an image.
        """
        tables = self.stage.tables((states.a, states.b))
        known = Agreement.assumed(self.shells, states.share) if assumed else self._agreement(tables, states.share)
        compared = self._believed(tables, states.share, known, by)
        members, evidence, contrasts = self._expected(rows, compared, states.share)
        if alone:
            members = _alone(members[0]), _alone(members[1])
        moved = self.maximised(self._sums(rows, members, contrasts), members, known.mean)
        return moved, members, self._with_scale(rows, contrasts), float(evidence.mean())

    def weighed(
        self, tables: tuple[Table, Table], share: Float[Tensor, " states"], rows: Rows
    ) -> tuple[Members, Float[Tensor, " images"]]:
        """Memberships and log evidence of some images against maps."""
        return self._expected(rows, tables, share)[:2]

    def told(self, rows: Rows, mean: tuple[Table, Table], apart: tuple[Table, Table]) -> tuple[Tensor, Tensor]:
        """What some images say of the amount of each of several differences that is added to a mean. A meeting.

        Args:
            mean, apart: what images of each half are compared with.

        Returns:
            slope and curvature, each (images, differences): the log likelihood of amount w is slope w - curvature w^2 / 2.
        """
        gather = self.images.processes.gather
        own = self._own(rows)
        compared = in_both_halves(lambda which: self._compared(own[which], apart[which], beside=mean[which]))
        slope, curvature = [], []
        for half, (fit, power) in zip(rows, compared, strict=True):
            size, views = self.scale[half], self.images.views[half]
            fit, (power, shared) = gather(fit), gather(power).chunk(2, dim=1)
            slope.append(views.summed(size[:, :1] * fit - size[:, 1:] * shared))
            curvature.append(views.summed(size[:, 1:] * power))
        return torch.cat(slope), torch.cat(curvature)

    def shrunk(self, states: States) -> States:
        """The maps of each half as far as they are believed."""
        stage = self.stage
        a, b = (volumes_of_table(table, stage.layout, stage.box) for table in self.tables(states, "own"))
        return replace(states, a=a, b=b)

    def confined(self, states: States) -> tuple[Float[Tensor, "n n n"], States]:
        """Where the density differs between states, as far as both halves say so, and states that differ only there."""
        stage, share = self.stage, states.share

        def apart(table: Table) -> Volumes:
            differences = (table - (table * share).sum(2, keepdim=True)) * share.sqrt()
            return volumes_of_table(differences, stage.layout, stage.box)

        a, b = self.tables(states, "own")
        region = region_of_change(apart(a), apart(b))
        return region, states.differing_in(region)

    def maximised(self, sums: tuple[Sums, Sums], members: Members, of_mean: Float[Tensor, " shells"]) -> States:
        """The maps that sums over images ask for. ``of_mean``: correlation of the mean of all states between halves."""
        a, b = in_both_halves(lambda which: self._maps(sums[which], of_mean))
        share = torch.cat(members).mean(0).clamp(min=1e-6)
        return States(a, b, share / share.sum())

    def _expected(
        self, rows: Rows, tables: tuple[Table, Table], share: Tensor
    ) -> tuple[Members, Float[Tensor, " images"], Contrasts]:
        """Memberships, log evidence and contrasts of some images of both halves. A meeting of the processes."""
        gather = self.images.processes.gather
        own = self._own(rows)
        compared = in_both_halves(lambda which: self._compared(own[which], tables[which]))
        a, b = (
            self._judged(half, gather(fit), gather(power), share)
            for half, (fit, power) in zip(rows, compared, strict=True)
        )
        return (a[0], b[0]), torch.cat((a[1], b[1])), (a[2], b[2])

    def _sums(self, rows: Rows, members: Members, contrasts: Contrasts) -> tuple[Sums, Sums]:
        """What some images of both halves ask of the maps. A meeting of the processes."""

        def work(which: int) -> Sums:
            kept = self.images.kept(rows[which], which)
            return self._backprojected(rows[which][kept], members[which][kept], contrasts[which][kept])

        sums = in_both_halves(work)
        self.images.processes.sum(sums)
        return sums

    def _own(self, rows: Rows) -> Rows:
        """Those images whose coefficients this process keeps."""
        a, b = (half[self.images.kept(half, which)] for which, half in enumerate(rows))
        return a, b

    # ------------------------------------------------------------------------------------------------------ one half

    def _compared(self, rows: Tensor, table: Table, beside: Table | None = None) -> tuple[Tensor, Tensor]:
        """How much images have in common with the map of every state as they would see it, and its power.

        Args:
            beside: a map; how much the others have in common with it then stands beside their power.
        """
        stage, count = self.stage, table.shape[2]
        found = [(torch.zeros(0, count), torch.zeros(0, count if beside is None else 2 * count))]
        whole = table if beside is None else torch.cat((table, beside), dim=2)
        for part in rows.split(self.images.at_once(stage.plane.count, whole.shape[2])):
            values, factor = self.images.chosen(part, stage.plane.count)
            slices = gather_table(whole, stage.layout, self.images.rotation[part], stage.plane, factor).flatten(1, 2)
            seen, shared = (
                slices[..., :count],
                [slices[..., :count] * slices[..., count:]] if beside is not None else [],
            )
            power = torch.cat([product.sum(1) for product in (seen.square(), *shared)], dim=1)
            found.append(((values.flatten(1)[:, None] @ seen)[:, 0], power))
        return torch.cat([fit for fit, _ in found]), torch.cat([power for _, power in found])

    def _judged(self, rows: Tensor, fit: Tensor, power: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Memberships, log evidence and contrasts; the views of a particle share its memberships, and its evidence out."""
        size, views = self.scale[rows], self.images.views[rows]
        said = size[:, :1] * fit - size[:, 1:] / 2 * power
        log = views.summed(said) + share.log()
        evidence = torch.logsumexp(log, dim=1)
        member = torch.exp(log - evidence[:, None])
        return member, evidence / views.count, self._contrast((member * fit).sum(1), (member * power).sum(1))

    def _backprojected(self, rows: Tensor, member: Tensor, size: Tensor) -> Sums:
        """The sums of every state over the images that belong to it: signal, and how much is said of it."""
        stage = self.stage
        sums = torch.zeros(member.shape[1], stage.layout.count, 2, 2)
        kept = torch.where(member > LEAST_MEMBERSHIP, member, 0)
        share = kept[..., None] * size[:, None]
        at_once = self.images.at_once(stage.plane.count, 1)
        for part, belongs in zip(rows.split(at_once), share.split(at_once), strict=True):
            values, factor = self.images.chosen(part, stage.plane.count)
            scatter_shares(values, stage.layout, self.images.rotation[part], stage.plane, factor, belongs, sums)
        return self._completed(sums)

    def _completed(self, sums: Sums) -> Sums:
        """Sums that the plane x = 0 and the point group have been applied to."""
        stage = self.stage
        for total in sums:
            complete_axis_plane(total, stage.layout)
            if len(stage.symmetry) > 1:
                total.copy_(symmetrise_table(total, stage.layout, stage.symmetry))
        return sums

    def _maps(self, sums: Sums, of_mean: Tensor) -> Volumes:
        """The maps of one half: the mean shrunk, what states differ by not yet."""
        stage, layout = self.stage, self.stage.layout
        shell = layout.nearest_shell
        total = sums.sum(0)
        mean = _divided(total[..., 0], total[:, 0, 1], _noise_to_signal(of_mean), shell, stage)
        centre = volumes_of_table(mean[..., None], layout, stage.box)[0] * self.mask[0]
        uneven = torch.full_like(of_mean, UNEVEN)
        maps = torch.empty(len(sums), *centre.shape)
        for state, one in enumerate(sums):
            said, told = one[..., 0], one[:, 0, 1]
            difference = _divided(said - told[:, None] * mean, told, uneven, shell, stage)
            kept = _divided(told[:, None], told, uneven, shell, stage)[:, 0]
            difference = difference / shell_means(kept, layout).clamp(min=LEAST_KEPT)[shell, None]
            apart = volumes_of_table(difference[..., None], layout, stage.box)[0]
            maps[state] = centre + apart * self.mask[1]
        return maps

    def _contrast(self, fit: Tensor, power: Tensor) -> Tensor:
        """E[s] and E[s^2] of images, normal around 1 before they are seen."""
        if self.spread == 0:
            return torch.ones(len(fit), 2)
        inverse = 1 / self.spread**2
        precision = power + inverse
        mean = (fit + inverse) / precision
        return torch.stack((mean, mean.square() + 1 / precision), dim=1)

    def _with_scale(self, rows: Rows, found: Contrasts) -> Sorter:
        """With the contrasts found, and their spread: what they vary by beyond the error of one image."""
        if self.spread == 0:
            return self
        mean, square = torch.cat(found).to(torch.float64).T
        precision = 1 / (square - mean.square()).clamp(min=1e-12)
        told = (precision - 1 / self.spread**2).clamp(min=1e-6)
        alone = (mean * precision - 1 / self.spread**2) / told  # what the image says without the prior
        centre = (alone * told).sum() / told.sum()
        variance = float((((alone - centre).square() * told).sum() - len(told)) / told.sum())
        scale = self.scale.clone()
        scale[torch.cat(rows)] = torch.cat(found)
        spread = min(max(variance, 0.0) ** 0.5, WIDEST_SCALE)
        return replace(self, scale=at_one(scale), spread=max(spread, LEAST_SPREAD))


def _alone(members: Float[Tensor, "images states"]) -> Float[Tensor, "images states"]:
    """All of every image in its likeliest state."""
    return torch.zeros_like(members).scatter(1, members.argmax(1, keepdim=True), 1.0)


def _noise_to_signal(correlation: Tensor) -> Tensor:
    believed = correlation.clamp(LEAST_CORRELATION, MOST_CORRELATION)
    return (1 - believed) / believed


def _divided(said: Tensor, told: Tensor, ratio: Tensor, shell: Tensor, stage: Stage) -> Tensor:
    """Sums over images divided by how much was said and by the prior of each shell (Scheres 2012)."""
    prior = (shell_means(told, stage.layout) * ratio)[shell]
    return said / (told + prior + torch.finfo(said.dtype).tiny)[:, None]


def as_basis(states: States, halves: Halves) -> tuple[MixturePrior, Halves]:
    """States as a mean and C - 1 directions of change whose weights are functions of the state.

    The functions are orthonormal under the share, so latents have unit variance as those of other ensembles have.
    """
    functions = functions_of_states(states.share)

    def moved(maps: Volumes) -> Volumes:
        mean = torch.tensordot(states.share, maps, 1)[None]
        return torch.cat((mean, torch.tensordot((functions * states.share[:, None]).T, maps, 1)))

    spread = LEAST_VARIANCE**0.5 * torch.eye(states.count - 1).repeat(states.count, 1, 1)
    return MixturePrior(states.share, functions, spread), replace(halves, a=moved(states.a), b=moved(states.b))


def functions_of_states(share: Float[Tensor, " states"]) -> Float[Tensor, "states functions"]:
    """C - 1 functions of the state with mean 0 and covariance 1 under the share."""
    return directions_between(share) / share.sqrt()[:, None]

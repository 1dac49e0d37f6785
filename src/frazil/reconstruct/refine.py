"""Joint refinement of poses, defocus, scale and beam tilt, in rounds.

A round makes the maps of both halves with what is known, sees how far they agree, and refines every particle against the
map of its own half, Wiener filtered and without its solvent, to that resolution. No particle ever sees the map of the other
half, so the agreement of the halves stays an honest measure: the rounds end when it no longer grows, and the best is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.stack import Particles
from frazil.engine.checkpoint import load_checkpoint, part, save_checkpoint, under
from frazil.errors import InputError
from frazil.inference.beam_tilt import beam_tilt_of
from frazil.inference.half_map import HalfMap
from frazil.inference.learnt_widths import learnt_widths
from frazil.inference.local_refinement import PriorWidths, Refined
from frazil.numerics.rotations import geodesic_angle
from frazil.numerics.shells import first_shell_below
from frazil.numerics.spectrum_table import table_layout, table_of_volumes
from frazil.physics.grid import Grid
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose
from frazil.reconstruct.basis_job import SHARE_FOR_IMAGES, measured_noise
from frazil.reconstruct.consensus import backproject_together, judge, planned_memory
from frazil.reconstruct.maps import Consensus, believed
from frazil.reconstruct.own_half import OwnHalf
from frazil.reconstruct.whitened import WhitenedImages

if TYPE_CHECKING:
    from frazil.engine.job import Job
    from frazil.reconstruct import Config
    from frazil.reconstruct.refine_config import RefineConfig

# halves agree better only if the mean of their correlation over all shells grows by more than this; the first round may cost
# a little agreement, so rounds end when so many in a row have not made it better
BETTER, PATIENCE = 0.001, 2
# particles are refined to the shell where the halves' correlation falls below this, and at least to that shell
AGREED, LEAST_BAND = 0.143, 4
# correlations nearer to 1 or 0 are not believed when the signal of a shell is weighed against its noise
NEAREST = 1e-3
# shifts are known to this many pixels unless it is said
PIXELS_OF_SHIFT = 3.0


@final
@dataclass(frozen=True)
class Round:
    """What is known after some rounds.

    Attributes:
        number: rounds done. found: of all particles, one candidate each, in the order of the stack. tilt: (x, y) of every
            optics group, mrad, to be added to that of the stack. noise: power of a coefficient. prior: standard deviations
            of rotation (degrees), shift (Å), defocus (Å) and scale around what the stack says, as the images tell them.
            correlation: corrected FSC of the half-maps that each round began with.
    """

    number: int
    found: Refined
    tilt: Float[Tensor, "groups 2"]
    noise: Float[Tensor, "groups shells"]
    prior: PriorWidths
    correlation: Float[Tensor, "rounds shells"]

    def tensors(self) -> dict[str, Tensor]:
        """All but the number, by name."""
        widths = torch.tensor(astuple(self.prior), dtype=torch.float64)
        own = {"tilt": self.tilt, "noise": self.noise, "prior": widths, "correlation": self.correlation}
        return own | under("found", self.found.tensors())

    @staticmethod
    def of_tensors(number: int, tensors: Mapping[str, Tensor]) -> Round:
        """What `tensors` gave."""
        found = Refined.of_tensors(part("found", tensors))
        prior = PriorWidths(*tensors["prior"].tolist())
        return Round(number, found, tensors["tilt"], tensors["noise"], prior, tensors["correlation"])


@final
@dataclass(frozen=True)
class Refinement:
    """What refinement made.

    Attributes:
        before: the particles that it began with. particles: with new poses and optics. scale: strength of each particle, 1 on
            average. halves: backprojected with all of these. correlation: corrected FSC of the half-maps before the first
            round and after each. kept: the round whose result this is. by_state: rounds of each conformation on its own that
            followed (see `by_state`).
    """

    before: Particles
    particles: Particles
    scale: Float[Tensor, " particles"]
    halves: tuple[HalfMap, HalfMap]
    correlation: Float[Tensor, "rounds shells"]
    kept: int
    by_state: int = 0


def refine(
    particles: Particles,
    reference: Grid,
    config: Config,
    job: Job,
    name: str = "refinement",
    *,
    quiet: bool = False,
    biased: bool = False,
) -> Refinement:
    """Rounds of refinement, beginning with the poses of the particles; a job that was killed goes on after its last round.

    A meeting of the processes that work on the job.

    Args:
        particles: with poses and half-sets. reference: the grid of the maps. name: of the checkpoint. quiet: say nothing of
            the rounds. biased: the poses were made with another map. Half-maps then agree too well at first and the poses
            lie nearer to that map than to the truth: so all rounds are done, the last is kept, and the prior stays wide.

    Raises:
        InputError: if nothing is to be refined, the images differ in box or pixel size, a beam tilt is asked for that cannot
            be seen, or memory is too small.
    """
    check_refinement(particles, config.refine)
    return Refiner(particles, reference, config, job, name, quiet=quiet, biased=biased).run()


def check_refinement(particles: Particles, settings: RefineConfig) -> None:
    """Refuse what cannot be refined.

    Raises:
        InputError: if nothing is left to refine, or a beam tilt is asked for that leaves no trace.
    """
    if not (settings.pose or settings.defocus or settings.scale or settings.beam_tilt):
        raise InputError(
            "there is nothing to refine",
            where="--refine.rounds",
            remedy="leave out one of --refine.no-pose, --refine.no-defocus and --refine.no-scale, or give no rounds",
        )
    optics = particles.optics
    if settings.beam_tilt and (optics is None or not bool((optics.cs > 0).any())):
        raise InputError(
            "a beam tilt shows by the spherical aberration of the microscope, and the table has "
            + ("no CTF" if optics is None else "none (rlnSphericalAberration is 0)"),
            where=particles.path,
            remedy="leave out --refine.beam-tilt",
        )


def widest_prior(settings: RefineConfig, grid: Grid) -> PriorWidths:
    """The widths that the prior begins with, and never exceeds."""
    shift = settings.shift_prior or PIXELS_OF_SHIFT * grid.pixel_size
    return PriorWidths(
        rotation=settings.rotation_prior if settings.pose else 0.0,
        shift=shift if settings.pose else 0.0,
        defocus=settings.defocus_prior if settings.defocus else 0.0,
        scale=settings.scale_prior if settings.scale else 0.0,
    )


@final
class Refiner:
    """Carries out the rounds of a stack."""

    def __init__(
        self, particles: Particles, reference: Grid, config: Config, job: Job, name: str, *, quiet: bool, biased: bool
    ) -> None:
        assert particles.pose is not None
        self.quiet, self.biased = quiet, biased
        self.particles, self.reference, self.config, self.job = particles, reference, config, job
        self.settings, self.grid = config.refine, particles.grid
        self.known = Pose(particles.pose.rotation[:, None].double(), particles.pose.shift[:, None].double())
        self.path = job.checkpoints / f"{name}.safetensors"
        self.images: WhitenedImages | None = None
        self.sign: int | None = None

    def run(self) -> Refinement:
        """All rounds that are left, and what came of them."""
        state, best = self._begun()
        while True:
            halves, consensus = self._judged(state)
            if not self.quiet:
                self._tell(state, consensus)
            curve = consensus.correlation.corrected.float()[None]
            correlation = torch.cat((state.correlation, curve))
            agreement = correlation[:, 1:].mean(1)
            best = state if self.biased or int(agreement.argmax()) == state.number else best
            if state.number == self.settings.rounds or (not self.biased and _settled(agreement.tolist())):
                break
            state = self._round(replace(state, correlation=correlation), consensus, halves)
            state = self.job.processes.same(state)
            if self.job.processes.first:
                tensors = under("state", state.tensors()) | under("best", best.tensors())
                told: dict[str, Any] = {"number": state.number, "best": best.number, "sign": self.sign}
                told["metrics"] = self.job.metrics.text()
                save_checkpoint(self.path, tensors, told)
        if best.number != state.number:
            self._log(f"the half-maps agreed best after round {best.number}: that is kept")
            halves, _ = self._judged(best)
        scale = best.found.scale[:, 0].float()
        return Refinement(self.particles, self.refined(best), scale, halves, correlation, best.number)

    def _begun(self) -> tuple[Round, Round]:
        """What is known at the start, or was when the job was killed; and the best so far."""
        kept: tuple[Round, Round, dict[str, Any]] | None = self.job.processes.from_first(self._kept)
        if kept is not None:
            state, best, told = kept
            self.sign = told["sign"]
            self.job.metrics.restore(told["metrics"])
            self._log(f"going on after round {state.number}")
            return state, best
        groups, shells = len(self.particles.grids), self.reference.box_size // 2 + 1
        noise = measured_noise(self.particles)
        tilt, nothing = torch.zeros(groups, 2), torch.zeros(0, shells)
        begin = Round(0, Refined.unrefined(self.known), tilt, noise, widest_prior(self.settings, self.grid), nothing)
        return begin, begin

    def _kept(self) -> tuple[Round, Round, dict[str, Any]] | None:
        if not (self.job.resumed and self.path.is_file()):
            return None
        tensors, told = load_checkpoint(self.path)
        state, best = (Round.of_tensors(told[key], part(name, tensors)) for key, name in _PLACES)
        return state, best, told

    def refined(self, state: Round) -> Particles:
        """The particles with what is known."""
        particles, found = self.particles, state.found
        if state.number == 0:
            return particles
        particles = particles.given(pose=Pose(found.pose.rotation[:, 0].float(), found.pose.shift[:, 0].float()))
        if particles.optics is not None and (self.settings.defocus or self.settings.beam_tilt):
            particles = particles.given(optics=_changed(particles.optics, found, state.tilt[particles.group]))
        return particles

    # ------------------------------------------------------------------------------------------------------ one round

    def _judged(self, state: Round) -> tuple[tuple[HalfMap, HalfMap], Consensus]:
        scale = state.found.scale[:, 0] if self.settings.scale else None
        halves = backproject_together(self.refined(state), self.reference, self.config.symmetry, self.job, scale)
        consensus, self.sign = self.job.processes.from_first(
            lambda: judge(*halves, self.config, self.reference, self.sign)
        )
        return halves, consensus

    def _round(self, state: Round, consensus: Consensus, halves: tuple[HalfMap, HalfMap]) -> Round:
        assert self.sign is not None
        images = self._read() if self.images is None else self.images
        images.set_noise(state.noise)
        trust = believed(consensus.correlation.corrected).clamp(NEAREST, 1 - NEAREST).float()
        band = self._band(trust, state.number)
        layout, ratio = table_layout(band), trust / (1 - trust)
        a, b = (
            table_of_volumes((half.volume(ratio) * self.sign * consensus.mask)[None].float(), layout) for half in halves
        )
        seen = OwnHalf(images, self.known, state.tilt, (a, b), layout, self.grid.half_plane(band))
        found = _of_mean_strength(seen.refined(state.found, state.prior))
        ratio_of_noise = torch.ones_like(state.noise)
        ratio_of_noise[:, : band + 1] = seen.residual(found)
        widest = widest_prior(self.settings, self.grid)
        prior = widest if self.biased else learnt_widths(found, self.known, state.prior, widest)
        noise = state.noise * ratio_of_noise
        state = replace(state, number=state.number + 1, found=found, prior=prior, noise=noise)
        return self._with_tilt(state, seen) if self.settings.beam_tilt and self.particles.optics is not None else state

    def _band(self, trust: Tensor, number: int) -> int:
        """The highest shell that a round looks at."""
        shell = first_shell_below(trust, AGREED)
        if number == 0 and self.settings.first_resolution is not None:
            shell = self.grid.shell_of(self.settings.first_resolution)
        return min(max(LEAST_BAND, math.ceil(shell)), self.grid.last_shell)

    def _with_tilt(self, state: Round, seen: OwnHalf) -> Round:
        """The tilt of every group and the shift that all its particles have in common."""
        optics, group = self.particles.optics, self.particles.group
        assert optics is not None
        tilt, shift = state.tilt.clone(), state.found.pose.shift.clone()
        for number, sums in enumerate(seen.phases(state.found)):
            members = group == number
            if sums is None or not bool((optics.cs[members] > 0).all()):
                continue
            first = optics[members][0:1]
            told = beam_tilt_of(sums, self.grid, seen.plane, float(first.voltage), float(first.cs))
            tilt[number] += told.tilt.float()
            shift[members] += told.shift
        found = replace(state.found, pose=Pose(state.found.pose.rotation, shift))
        return replace(state, tilt=tilt, found=found)

    def _read(self) -> WhitenedImages:
        """The coefficients of all images in memory, or on the job's disk when memory is short."""
        job, band = self.job, self.grid.last_shell
        assert self.sign is not None
        each = math.ceil(self.particles.count / job.processes.count)
        size, rest = WhitenedImages.size(each, self.grid, band), planned_memory(self.particles, self.reference)
        room = job.memory_to_be_had()
        on_disk = room is not None and size > SHARE_FOR_IMAGES * max(room - rest, 0)
        if not self.quiet:
            job.announce_memory(rest + (0 if on_disk else size), f"half-maps{'' if on_disk else ' and images'}")
        file = job.checkpoints / f"coefficients_{job.processes.rank}.float16" if on_disk else None
        with job.progress(each, "reading images") as progress:
            self.images = WhitenedImages(
                self.particles, band, measured_noise(self.particles), sign=self.sign, file=file,
                processes=job.processes, advance=progress.advance, log=job.log,
            )  # fmt: skip
        return self.images

    def _log(self, text: str) -> None:
        if not self.quiet:
            self.job.log(text)

    def _tell(self, state: Round, consensus: Consensus) -> None:
        """A line of the metrics, and one of the log."""
        found = state.found
        turned = torch.rad2deg(geodesic_angle(found.pose.rotation, self.known.rotation))
        moved = (found.pose.shift - self.known.shift).norm(dim=-1)
        values: dict[str, Any] = {
            "round": state.number,
            "resolution_masked": round(consensus.resolution(), 4),
            "resolution_unmasked": round(consensus.unmasked_resolution(), 4),
            "agreement": round(float(consensus.correlation.corrected[1:].mean()), 5),
            "log_likelihood": round(float(found.log_likelihood.mean()), 4),
            "median_turn": round(float(turned.median()), 4),
            "median_shift": round(float(moved.median()), 4),
            "median_defocus_change": round(float(found.defocus.abs().median()), 2),
            "scale_spread": round(float(found.scale.std()) if len(found) > 1 else 0.0, 4),
        }
        values |= {f"prior_{name}": round(width, 4) for name, width in asdict(state.prior).items()}
        self.job.metric(**values)
        self.job.log(
            f"round {state.number}: {values['resolution_masked']:.2f} Å in the mask, {values['resolution_unmasked']:.2f} Å"
            f" unmasked; median change {values['median_turn']:.2f}°, {values['median_shift']:.2f} Å,"
            f" defocus {values['median_defocus_change']:.0f} Å"
        )


# what stands in a checkpoint: the key of the number, and the name before the tensors
_PLACES = (("number", "state"), ("best", "best"))


def _settled(agreement: list[float]) -> bool:
    """Whether the last `PATIENCE` rounds have not made the half-maps agree better."""
    before = agreement[:-PATIENCE]
    return bool(before) and max(agreement[-PATIENCE:]) < max(before) + BETTER


def _changed(optics: Optics, found: Refined, tilt: Tensor) -> Optics:
    more = found.defocus[:, 0].to(optics.voltage)
    return replace(
        optics,
        defocus_u=optics.defocus_u + more,
        defocus_v=optics.defocus_v + more,
        beam_tilt_x=optics.beam_tilt_x + tilt[:, 0],
        beam_tilt_y=optics.beam_tilt_y + tilt[:, 1],
    )


def _of_mean_strength(found: Refined) -> Refined:
    """Scales divided by their mean: the map carries the common one."""
    return replace(found, scale=found.scale / found.scale.mean())

"""Settings of the joint refinement of poses, defocus, scale and beam tilt."""

from __future__ import annotations

from frazil.config import StageConfig, setting


class RefineConfig(StageConfig):
    """Poses, defocus and strength of every particle, and the beam tilt of every optics group, refined around what is known.

    Each particle is compared with the map of its own half-set only, to the resolution at which both halves agree."""

    rounds: int | None = setting(
        None,
        "most rounds; they end sooner where the half-maps agree no better; 0 leaves all as it is (0; 12 after a search)",
        ge=0,
    )
    by_state: int | None = setting(
        None,
        "rounds in which every particle is refined against its own conformation and all conformations are laid on each other"
        " so that most of the molecule stands still (0; where poses are found for --density basis 3, of discrete states 1)",
        ge=0,
    )
    pose: bool = setting(True, "refine rotations and shifts")
    defocus: bool = setting(True, "refine the defocus of every particle")
    scale: bool = setting(True, "refine how strong every particle is in its image")
    beam_tilt: bool = setting(False, "refine the beam tilt of every optics group")
    rotation_prior: float = setting(
        10.0,
        "how wrong rotations may be: most standard deviation about each axis, degrees; the images say how much",
        gt=0,
    )
    shift_prior: float | None = setting(
        None, "how wrong shifts may be: most standard deviation on each axis, Å (3 pixels unless given)", gt=0
    )
    defocus_prior: float = setting(500.0, "how wrong defoci may be: most standard deviation, Å", gt=0)
    scale_prior: float = setting(
        0.5, "how much particles may differ in strength: most standard deviation, a share", gt=0
    )
    first_resolution: float | None = setting(
        None, "finest spacing used in the first round, Å (what the half-maps agree upon unless given)", gt=0
    )

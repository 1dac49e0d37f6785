"""The sampling of an image or a volume."""

from __future__ import annotations

from dataclasses import dataclass

from frazil.numerics.fourier import HalfPlane, half_plane


@dataclass(frozen=True)
class Grid:
    """A cube or square of ``box_size`` pixels of ``pixel_size`` Å; the origin is pixel ``box_size // 2`` on every axis.

    Raises:
        ValueError: if the box has fewer than four pixels or the pixel size is not a positive number.
    """

    box_size: int
    pixel_size: float

    def __post_init__(self) -> None:
        if self.box_size < 4:
            raise ValueError(f"a box of {self.box_size} pixels is too small: four are the least")
        if not 0 < self.pixel_size < float("inf"):
            raise ValueError(f"a pixel size of {self.pixel_size} Å is impossible: give a positive number")

    @property
    def extent(self) -> float:
        """Side of the box, Å."""
        return self.box_size * self.pixel_size

    @property
    def nyquist(self) -> float:
        """Finest spacing the pixels can hold, Å."""
        return 2 * self.pixel_size

    @property
    def frequency_step(self) -> float:
        """Spatial frequency of Fourier index 1, 1/Å."""
        return 1 / self.extent

    @property
    def last_shell(self) -> int:
        """The highest shell of the default half-plane."""
        return (self.box_size - 1) // 2

    def half_plane(self, band: int | None = None, device: str = "cpu") -> HalfPlane:
        """The independent Fourier coefficients of an image on this grid, out to shell ``band``."""
        return half_plane(self.box_size, band, device)

    def shell_of(self, resolution: float) -> float:
        """The (fractional) shell of a resolution in Å."""
        return self.extent / resolution

    def resolution_of(self, shell: float) -> float:
        """The resolution in Å of a shell; infinite for shell 0."""
        return self.extent / shell if shell > 0 else float("inf")

"""Say what a file is.

`frazil inspect FILE` recognises particle stacks (RELION 1 to 5, cryoSPARC, lists of stacks, MRC stacks), maps, the
other files of RELION, cryoSPARC, cryoDRGN (finished runs too), Warp, CTFFIND, SerialEM and EPU, and frazil's own job
folders. It prints count, box, pixel size, optics groups, whether there are poses, the defocus range and voltage, and
warns of what looks wrong: defocus in µm, a pixel size that nobody set, particles darker than the background, missing
stacks, NaN, images that are not normalised, columns that frazil does not use. Nothing is changed. With `--json` one
JSON object is printed and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frazil.config import StageConfig, argument, setting

MAKES_JOB = False


class Config(StageConfig):
    """Settings of `frazil inspect`."""

    file: Path = argument("file or job folder to describe")
    images: Path | None = setting(None, "folder that holds the particle images, or the one stack to use")
    pixel_size: float | None = setting(None, "pixel size in place of what the file says, Å", gt=0)
    box_size: int | None = setting(None, "box size in place of what the file says, pixels", gt=0)
    as_json: bool = setting(False, "print one JSON object", flag="json")


def run(config: Config, job: None = None) -> dict[str, Any] | str:
    """Describe the file: a dictionary with `--json`, else lines of text. Raises InputError when it cannot be read."""
    from frazil.data.recognise import recognise

    found = recognise(config.file, config.images, config.pixel_size, config.box_size)
    return found.json() if config.as_json else found.text()

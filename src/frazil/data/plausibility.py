"""What a particle set says of itself, and what in it looks wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frazil.data.mrc import states_pixel_size
from frazil.data.stack import Particles
from frazil.errors import InputError
from frazil.physics.optics import Optics
from frazil.physics.pose import Pose

SAMPLE = 256  # images looked at
HEADERS = 64  # stacks whose headers are compared with the table
# of the half side of the box: where a particle surely is, and where surely only background
INSIDE, OUTSIDE = 0.5, 0.9
# a contrast is believed from this many deviations of the background, and this many of its own error
SEEN, SURE = 0.01, 3.5


def particle_facts(particles: Particles) -> dict[str, Any]:
    """Count, sampling, optics, poses: the facts `frazil inspect` gives of a particle set."""
    listing, optics = particles.listing, particles.optics
    counts = torch.bincount(particles.group, minlength=len(listing.groups))
    groups = []
    for number, group in enumerate(listing.groups):
        members = particles.group == number
        groups.append(
            {
                "name": group.name,
                "count": int(counts[number]),
                "box_size": group.box_size or None,
                "pixel_size": group.pixel_size or None,
                **({} if optics is None or not bool(members.any()) else _shared(optics[members])),
            }
        )
    boxes = sorted({group.box_size for group in listing.groups if group.box_size})
    sizes = sorted({group.pixel_size for group in listing.groups if group.pixel_size})
    voltages = [] if optics is None else sorted({round(float(v), 3) for v in optics.voltage.unique()})
    missing = listing.files.missing()
    dark = None if particles.sign is None or particles.count == 0 else bool(particles.sign[0] < 0)
    halves = None if particles.half_set is None else torch.bincount(particles.half_set, minlength=2).tolist()
    return {
        "count": particles.count,
        "box_size": _one_or_all(boxes),
        "pixel_size": _one_or_all(sizes),
        "optics_groups": groups,
        "has_poses": particles.pose is not None,
        "has_ctf": optics is not None,
        "defocus_range": None if optics is None else [float(optics.defocus_v.min()), float(optics.defocus_u.max())],
        "voltage": _one_or_all(voltages),
        "half_sets": halves,
        "tilted_views": _tilts_of(particles),
        "stated_contrast": None if dark is None else "dark" if dark else "bright",
        "stacks": len(listing.files.names),
        "stacks_missing": len(missing),
    }


def particle_warnings(particles: Particles) -> tuple[str, ...]:
    """Everything about a particle set that looks wrong, one sentence each; nothing for a set that is in order."""
    return (
        *particles.warnings,
        *_sampling_warnings(particles),
        *([] if particles.optics is None else _optics_warnings(particles.optics)),
        *([] if particles.pose is None else _pose_warnings(particles.pose, particles)),
        *_row_warnings(particles),
        *_image_warnings(particles),
    )


def background_and_contrast(images: Tensor) -> tuple[float, float, float, float]:
    """(mean and deviation of the background, centre minus edge in deviations of the background, its z score).

    Centre is a disc of half the box, edge what lies beyond the inscribed circle's last tenth; the z score is over the mean of
    all images, each pixel counted with the spread of its image.
    """
    count, size = images.shape[0], images.shape[-1]
    axis = (torch.arange(size) - size // 2) / (size / 2)
    radius = torch.hypot(axis[:, None], axis[None, :])
    inside, outside = images[:, radius < INSIDE].double(), images[:, radius > OUTSIDE].double()
    mean, deviation = float(outside.mean()), float(outside.std(dim=1).mean())
    # differences image by image: their own spread over images says how sure the sign is
    difference = inside.mean(1) - outside.mean(1)
    spread = float(difference.std()) / count**0.5 if count > 1 else float("inf")
    average = float(difference.mean())
    return mean, deviation, average / max(deviation, 1e-30), average / max(spread, 1e-30)


def _shared(optics: Optics) -> dict[str, Any]:
    values = {"voltage": optics.voltage, "cs": optics.cs, "amplitude_contrast": optics.amplitude_contrast}
    return {name: _one_or_all(sorted({round(v, 4) for v in value.unique().tolist()})) for name, value in values.items()}


def _one_or_all(values: list[Any]) -> Any:
    return None if not values else values[0] if len(values) == 1 else values


def _sampling_warnings(particles: Particles) -> Iterator[str]:
    groups = particles.listing.groups
    for group in groups:
        if group.pixel_size <= 0:
            yield "no pixel size is stated anywhere: give --pixel-size, in Å"
        elif not 0.2 < group.pixel_size < 30:
            yield f"a pixel size of {group.pixel_size:g} Å is unlikely"
        if group.box_size and group.box_size < 16:
            yield f"a box of {group.box_size} pixels is very small"
    if len({(group.box_size, group.pixel_size) for group in groups}) > 1:
        yield "the optics groups differ in box or pixel size"


def _optics_warnings(optics: Optics) -> Iterator[str]:
    low, high = float(optics.defocus_v.min()), float(optics.defocus_u.max())
    if 0 < abs(high) < 100:
        yield f"defocus of {low:g} to {high:g} looks like µm: it must be in Å (1 µm = 10,000 Å)"
    elif high > 100_000:
        yield f"defocus up to {high:,.0f} Å is unlikely: it must be in Å, underfocus positive"
    if low < 0:
        share = float((optics.defocus_v < 0).float().mean())
        yield f"{share:.0%} of the defocus values are negative: underfocus is positive here"
    split = float((optics.defocus_u - optics.defocus_v).max())
    if split > 10_000:
        yield f"astigmatism up to {split:,.0f} Å is unlikely"
    voltage = optics.voltage.unique().tolist()
    if any(not 60 <= value <= 1250 for value in voltage):
        yield f"a voltage of {voltage[0]:g} is unlikely: it must be in kV"
    if float(optics.cs.max()) > 10 or float(optics.cs.min()) < 0:
        yield f"a spherical aberration of {float(optics.cs.max()):g} is unlikely: it must be in mm"
    contrast = float(optics.amplitude_contrast.max())
    if not 0 <= contrast <= 0.5 or float(optics.amplitude_contrast.min()) < 0:
        yield f"an amplitude contrast of {contrast:g} is unlikely: 0.07 to 0.1 is usual"


def _pose_warnings(pose: Pose, particles: Particles) -> Iterator[str]:
    angles = torch.stack(pose.to(torch.float64).to_relion()[:3])
    if len(pose) > 10:
        if bool((pose.rotation == pose.rotation[0]).all()):
            yield "all rotations are the same"
        elif float(angles.abs().max()) <= 2 * np.pi:
            yield "all angles lie within ±6.3: they look like radians, and must be in degrees"
    extents = [group.box_size * group.pixel_size for group in particles.listing.groups]
    extent = torch.tensor(extents)[particles.group]
    far = (extent > 0) & (pose.shift.abs().amax(1) > extent / 2)
    if bool(far.any()):
        yield f"{int(far.sum())} shifts reach beyond the edge of the box: check their unit"


def _row_warnings(particles: Particles) -> Iterator[str]:
    listing, rows = particles.listing, particles.rows
    missing = listing.files.missing()
    if missing:
        share = f"{len(missing)} of {len(listing.files.names)} image stacks are not there"
        yield f"{share}, the first is {missing[0]}: give their folder with --images"
    pairs = np.stack([listing.file[rows], listing.index[rows]], 1)
    repeated = len(pairs) - len(np.unique(pairs, axis=0))
    if repeated:
        yield f"images that appear in more than one row: {repeated} rows too many, unless symmetry was expanded"
    if particles.half_set is not None and particles.count > 20:
        half = int(particles.half_set.sum())
        if min(half, particles.count - half) < 0.3 * particles.count:
            yield f"the half-sets are uneven: {particles.count - half} and {half}"


def _image_warnings(particles: Particles) -> Iterator[str]:
    """What the headers and a sample of the images show. Stacks that are missing are passed over."""
    listing = particles.listing
    files, at = listing.files, listing.file[particles.rows]
    present = [number for number in np.unique(at).tolist() if files.find(number) is not None]
    unstated: dict[float, float] = {}
    for number in present[:HEADERS]:
        stack = files.open(number)
        rows = np.flatnonzero(at == number)
        last = int(listing.index[particles.rows[rows]].max())
        if last >= stack.count:
            yield f"{stack.path.name} holds {stack.count} images, the table asks for image {last + 1}"
            return
        stated = listing.groups[int(listing.group[particles.rows[rows[0]]])].pixel_size
        if stated > 0 and abs(stack.pixel_size / stated - 1) > 0.01:
            unstated[stack.pixel_size] = stated
    for header, table in unstated.items():
        if states_pixel_size(header):
            yield f"the image header says {header:g} Å/px, the table {table:g}: the table is believed"
        else:
            yield f"the image header says {header:g} Å/px, which programs write when they do not know: {table:g} is taken"
    here = np.flatnonzero(np.isin(at, present))
    if len(here):
        yield from _sample_warnings(particles, here)


def _sample_warnings(particles: Particles, here: np.ndarray) -> Iterator[str]:
    boxes = np.array([group.box_size for group in particles.listing.groups])[particles.group.numpy()[here]]
    same = here[boxes == boxes[0]]
    chosen = same[np.unique(np.linspace(0, len(same) - 1, min(SAMPLE, len(same))).astype(int))]
    try:
        images = particles.images(chosen, check=False)
    except InputError as error:
        yield str(error).removesuffix(".")
        return
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        first = particles.name(int(chosen[int((~finite).int().argmax())]))
        yield f"{int((~finite).sum())} of {len(chosen)} images looked at hold NaN or infinity, the first is {first}"
    flat = images.flatten(1).amax(1) == images.flatten(1).amin(1)
    if bool((flat & finite).any()):
        yield f"{int((flat & finite).sum())} of {len(chosen)} images looked at are empty (one value throughout)"
    images = images[finite & ~flat]
    if len(images) == 0:
        return
    mean, deviation, contrast, certainty = background_and_contrast(images)
    if not 0.3 < deviation < 3 or abs(mean) > 0.5 * deviation:
        yield f"images are not normalised: background mean {mean:.3g}, deviation {deviation:.3g} (0 and 1 are usual)"
    stated = None if particles.sign is None else int(particles.sign[0])
    if contrast < -SEEN and certainty < -SURE:
        yield "particles look darker than the background, as in raw micrographs; densities will be turned to bright"
    elif stated == -1 and contrast > SEEN and certainty > SURE:
        yield "the table says particles are dark, but they look bright"


def _tilts_of(particles: Particles) -> dict[str, Any] | None:
    """Of how many particles there are views, and at which tilts (degrees)."""
    tilts = particles.tilts
    if tilts is None:
        return None
    return {
        "particles": len(tilts.particle.unique()),
        "angle_range": [float(tilts.angle.min()), float(tilts.angle.max())],
    }

"""What RELION's columns mean, version by version: one particle written in every dialect is the same particle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from frazil.data.stack import Particles, read_particles
from frazil.errors import InputError

RELION_1 = """
data_

loop_
_rlnVoltage #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnSphericalAberration #5
_rlnDetectorPixelSize #6
_rlnMagnification #7
_rlnAmplitudeContrast #8
_rlnImageName #9
_rlnOriginX #10
_rlnOriginY #11
_rlnAngleRot #12
_rlnAngleTilt #13
_rlnAnglePsi #14
_rlnRandomSubset #15
 300.0 15000.0 14000.0 30.0 2.7 5.0 20000.0 0.1 000002@images.mrcs  1.0 -2.0 10.0 20.0 30.0 2
"""
RELION_31 = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
1 opticsGroup1 300.0 2.7 0.1 2.5 16

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnOriginXAngst #9
_rlnOriginYAngst #10
_rlnRandomSubset #11
000002@images.mrcs 1 15000.0 14000.0 30.0 10.0 20.0 30.0 2.5 -5.0 2
"""
PAIRS = """
data_optics

_rlnOpticsGroup 1
_rlnOpticsGroupName "my group"
_rlnVoltage 300.0
_rlnSphericalAberration 2.7
_rlnAmplitudeContrast 0.1
_rlnImagePixelSize 2.5
_rlnImageSize 16

"""
BLOCKS = RELION_31.split("data_particles")
DIALECTS = {
    "RELION 1": RELION_1,
    "RELION 3.0, block called images": RELION_1.replace("data_\n", "data_images\n"),
    "RELION 3.1": RELION_31,
    "particles before optics": "\ndata_particles" + BLOCKS[1] + BLOCKS[0],
    "optics as name-value pairs": PAIRS + "data_particles" + BLOCKS[1],
    "columns without numbers": "\n".join(line.split(" #")[0] for line in RELION_31.splitlines()) + "\n",
    "quoted image name": RELION_31.replace("000002@images.mrcs", '"000002@images.mrcs"'),
    "RELION 4 and 5: another block first": "data_general\n\n_rlnTomoManifold none\n" + RELION_31,
    "optics found by content": RELION_31.replace("data_optics", "data_groups"),
}


@pytest.fixture
def read(tmp_path: Path, images: np.ndarray, write_mrc: Callable) -> Callable[..., Particles]:
    write_mrc(tmp_path / "images.mrcs", images)

    def read_text(text: str, **options: object) -> Particles:
        (tmp_path / "p.star").write_text(text)
        return read_particles(tmp_path / "p.star", **options)  # type: ignore[arg-type]

    return read_text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_describes_the_same_particle(read: Callable[..., Particles], dialect: str, images) -> None:
    particles = read(DIALECTS[dialect])
    assert (particles.count, particles.grid.box_size, particles.grid.pixel_size) == (1, 16, 2.5)
    assert particles.pose is not None and particles.optics is not None and particles.half_set is not None
    origin = torch.stack(particles.pose.to_relion()).squeeze().tolist()
    assert origin == pytest.approx([10, 20, 30, 2.5, -5.0], abs=1e-4)
    assert particles.pose.shift.tolist() == [[-2.5, 5.0]]
    optics = {name: float(value) for name, value in particles.optics.__dict__.items()}
    assert optics["defocus_u"] == 15000 and optics["defocus_v"] == 14000 and optics["defocus_angle"] == 30
    assert optics["voltage"] == 300 and optics["cs"] == pytest.approx(2.7) and optics["b_factor"] == 0
    assert optics["amplitude_contrast"] == pytest.approx(0.1)
    assert particles.half_set.tolist() == [1]
    assert np.array_equal(particles.images(slice(None))[0], images[1])


def test_optics_groups_of_different_pixel_size_and_box_stay_apart(
    read: Callable[..., Particles], tmp_path: Path, write_mrc: Callable
) -> None:
    write_mrc(tmp_path / "large.mrcs", np.ones((1, 24, 24), np.float32))
    text = (
        RELION_31.replace("2.5 16\n", "2.5 16\n7 second 200.0 1.4 0.07 1.5 24\n")
        + "000001@large.mrcs 7 9000.0 8000.0 0.0 1.0 2.0 3.0 0.0 0.0 1\n"
    )
    particles = read(text)
    assert [(grid.box_size, grid.pixel_size) for grid in particles.grids] == [(16, 2.5), (24, 1.5)]
    assert particles.group.tolist() == [0, 1]
    assert particles.optics is not None and particles.optics.voltage.tolist() == [300, 200]
    with pytest.raises(InputError, match="different boxes or pixel sizes .24 px of 1.5 Å, 16 px of 2.5 Å"):
        _ = particles.grid
    assert [images.shape[-1] for _, images in particles.chunks(10)] == [16, 24]
    with pytest.raises(InputError, match="images of 16 and of 24 pixels are asked for together"):
        particles.images(slice(None))


def test_magnification_gives_each_row_its_pixel_size(read: Callable[..., Particles]) -> None:
    row = RELION_1.strip().splitlines()[-1]
    particles = read(RELION_1 + row.replace("20000.0", "40000.0") + "\n")
    assert sorted(grid.pixel_size for grid in particles.grids) == [1.25, 2.5]
    assert particles.pose is not None and particles.pose.shift.tolist() == [[-2.5, 5.0], [-1.25, 2.5]]


def test_a_pixel_size_given_takes_the_place_of_the_tables(read: Callable[..., Particles]) -> None:
    particles = read(RELION_1, pixel_size=3.0)
    assert particles.grid.pixel_size == 3.0
    assert particles.pose is not None and particles.pose.shift.tolist() == [[-3.0, 6.0]]


def test_the_header_gives_box_and_pixel_size_when_the_table_does_not(read: Callable[..., Particles]) -> None:
    assert read("data_\nloop_\n_rlnImageName #1\n000001@images.mrcs\n").grid.pixel_size == 2.5


def test_defocus_axes_are_sorted_and_the_angle_turns_with_them(read: Callable[..., Particles]) -> None:
    optics = read(RELION_31.replace("15000.0 14000.0 30.0", "14000.0 15000.0 -60.0")).optics
    assert optics is not None
    assert (float(optics.defocus_u), float(optics.defocus_v), float(optics.defocus_angle)) == (15000, 14000, 30)


def test_missing_amplitude_contrast_is_assumed_and_said(read: Callable[..., Particles]) -> None:
    particles = read(RELION_31.replace("_rlnAmplitudeContrast", "_rlnUnknown"))
    assert particles.warnings == ("no rlnAmplitudeContrast: 0.1 is taken",)


def test_beam_tilt_phase_plate_and_b_factor_are_read(read: Callable[..., Particles]) -> None:
    text = RELION_31.replace("_rlnAngleRot #6", "_rlnAngleRot #6\n_rlnPhaseShift\n_rlnCtfBfactor")
    text = (
        text.replace("30.0 10.0 20.0", "30.0 10.0 90.0 50.0 20.0")
        .replace("_rlnImageSize #7\n", "_rlnImageSize #7\n_rlnBeamTiltX\n_rlnBeamTiltY\n")
        .replace("2.5 16\n", "2.5 16 0.25 -0.5\n")
    )
    optics = read(text).optics
    assert optics is not None
    values = optics.phase_shift, optics.b_factor, optics.beam_tilt_x, optics.beam_tilt_y
    assert [float(value) for value in values] == [90.0, 50.0, 0.25, -0.5]


def test_unset_angles_mean_no_pose_and_no_angles_mean_none_either(read: Callable[..., Particles]) -> None:
    assert read(RELION_31.replace("10.0 20.0 30.0 2.5", "-999.0 20.0 30.0 2.5")).pose is None
    in_plane = RELION_31.replace("_rlnAngleRot", "_rlnOther").replace("_rlnAngleTilt", "_rlnAnother")
    assert read(in_plane).pose is None


def test_columns_that_change_the_image_and_are_not_used_are_said(read: Callable[..., Particles]) -> None:
    text = RELION_31.replace(
        "_rlnImageSize #7\n",
        "_rlnImageSize #7\n_rlnOddZernike\n_rlnMagMat00\n_rlnMagMat01\n_rlnMagMat10\n_rlnMagMat11\n"
        "_rlnCtfDataAreCtfPremultiplied\n_rlnEvenZernike\n",
    ).replace("2.5 16\n", "2.5 16 [0,1.5,0] 1.01 0 0 1 1 [0,0]\n")
    warnings = read(text).warnings
    assert [warning.split()[0].strip(":") for warning in warnings] == [
        "rlnOddZernike",
        "rlnMagMat",
        "rlnCtfDataAreCtfPremultiplied",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("000002@images.mrcs 1 ", "000002@images.mrcs 5 "), r"p\.star:1 .*optics group 5 is not in the optics table"),
        (("000002@images", "two@images"), r"p\.star:1 .*'two@images.mrcs' is not of the form 000001@stack"),
        (("000002@images", "000000@images"), "images are counted from 1|Images are counted from 1"),
        (("15000.0", "deep"), r"p\.star:1 .*rlnDefocusU holds 'deep' where a number is needed"),
        (("_rlnVoltage", "_rlnNoVoltage"), "rlnDefocusU without rlnVoltage.*Add the column rlnVoltage to data_optics"),
        (("10.0 20.0 30.0 2.5", "nan 20.0 30.0 2.5"), r"p\.star:1 .*this pose is not a number"),
        (("15000.0", "inf"), r"p\.star:1 .*a CTF value here is not a number"),
        (("_rlnImageName", "_rlnMicrographName"), "no rlnImageName column, so these rows are no particle images"),
        (("images.mrcs", "gone.mrcs"), "image stack gone.mrcs is not there.*--images"),
        (("2.5 16\n", "2.5 18\n"), "the table says 18 pixels, the images in images.mrcs have 16"),
        (
            ("000002@images.mrcs 1 15000.0 14000.0 30.0 10.0 20.0 30.0 2.5 -5.0 2\n", ""),
            "the particle table has no rows",
        ),
        (("_rlnAngleTilt", "_rlnAngleTitl"), "rlnAngleRot without rlnAngleTilt.*Rename rlnAngleTitl to rlnAngleTilt"),
        (("_rlnDefocusAngle", "_rlnTomoParticleName"), "subtomograms of a tilt series"),
        (("000002@", "000009@"), "image 9 is asked for, the file holds 6"),
    ],
)
def test_a_wrong_table_is_told_in_one_line(read: Callable[..., Particles], change: tuple, message: str) -> None:
    assert change[0] in RELION_31
    with pytest.raises(InputError, match=message) as caught:
        read(RELION_31.replace(*change)).images(slice(None))
    assert "\n" not in str(caught.value)


def test_shifts_in_pixels_without_any_pixel_size_are_refused(
    read: Callable[..., Particles], tmp_path: Path, images: np.ndarray, write_mrc: Callable
) -> None:
    write_mrc(tmp_path / "images.mrcs", images, 0.0)
    with pytest.raises(InputError, match="rlnOriginX is in pixels and nothing states the pixel size.*--pixel-size"):
        read(RELION_1.replace("_rlnMagnification", "_rlnOther"))
    assert read(RELION_1.replace("_rlnMagnification", "_rlnOther"), pixel_size=2.5).grid.pixel_size == 2.5


def test_images_are_found_from_the_project_root_a_given_folder_or_a_given_stack(
    tmp_path: Path, images: np.ndarray, write_mrc: Callable
) -> None:
    (tmp_path / "Extract/job001").mkdir(parents=True)
    (tmp_path / "Refine3D/job002").mkdir(parents=True)
    stack = write_mrc(tmp_path / "Extract/job001/images.mrcs", images)
    star = tmp_path / "Refine3D/job002/run_data.star"
    star.write_text(RELION_31.replace("images.mrcs", "Extract/job001/images.mrcs"))
    assert read_particles(star).image_files[0].samefile(stack)
    lost = tmp_path / "Refine3D/job002/lost.star"
    lost.write_text(RELION_31.replace("images.mrcs", "/somewhere/else/images.mrcs"))
    with pytest.raises(InputError, match="is not there"):
        read_particles(lost)
    assert read_particles(lost, stack.parent).image_files == [stack]
    assert read_particles(lost, stack).image_files == [stack]
    with pytest.raises(InputError, match="no such file or folder of images"):
        read_particles(lost, tmp_path / "nowhere")


def test_a_stack_of_the_tables_name_beside_it_is_offered(
    tmp_path: Path, images: np.ndarray, write_mrc: Callable
) -> None:
    write_mrc(tmp_path / "mine.mrcs", images)
    (tmp_path / "mine.star").write_text(RELION_31)
    with pytest.raises(InputError, match=r"give --images mine\.mrcs"):
        read_particles(tmp_path / "mine.star")

"""Every metadata and malformed file of the shared data: it reads right, or says in one line what is wrong with it."""

from __future__ import annotations

import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from frazil.data.cryodrgn import read_ctf, read_latent, read_pickle, read_pose
from frazil.data.mrc import read_array, read_volume
from frazil.data.recognise import recognise
from frazil.data.stack import Particles, read_particles, write_particles_star
from frazil.data.star import read_star, write_star
from frazil.errors import InputError

# file: (kind, count)
FILES = {
    "metadata/cryodrgn/ctf1.pkl": ("ctf", 5),
    "metadata/cryodrgn/empiar10049_ctf.pkl.gz": ("ctf", 108_544),
    "metadata/cryodrgn/pose.cs.pkl": ("poses", 2019),
    "metadata/cryodrgn/pose.star.pkl": ("poses", 5),
    "metadata/cryodrgn/test_ctf.100.pkl": ("ctf", 100),
    "metadata/cryodrgn/zvals_het-8_4k.pkl": ("latents", 4549),
    "metadata/cryosparc/cryosparc_P12_J24_001_particles.cs": ("particles", 2019),
    "metadata/ctffind/017_ctffind4.txt": ("ctf", 60),
    "metadata/ctffind/diagnostic_output.txt": ("ctf", 1),
    "metadata/ctffind/input.txt": ("ctffind log", None),
    "metadata/detector_mtf/mtf_de20_300kV.star": ("detector MTF", 641),
    "metadata/detector_mtf/mtf_falcon4EC_300kV.star": ("detector MTF", 64),
    "metadata/detector_mtf/mtf_k2_300kV.star": ("detector MTF", 1001),
    "metadata/epu/EpuSession.dm": ("session", 1),
    "metadata/epu/FoilHole_19507368_20230919_142541.xml": ("image metadata", 1),
    "metadata/epu/FoilHole_19513699_Data_19508496_19508498_20230919_154056.jpg": ("picture", 1),
    "metadata/epu/FoilHole_19513699_Data_19508496_19508498_20230919_154056.xml": ("image metadata", 1),
    "metadata/epu/GridSquare_20230919_140816.jpg": ("picture", 1),
    "metadata/epu/GridSquare_20230919_140816.xml": ("image metadata", 1),
    "metadata/other/EL_Ribo_70x70.txt": ("table", 70),
    "metadata/other/analyse_eigenvectors.dat": ("table", 18),
    "metadata/pick_dialects/csv_y_flipped_cryoppp.csv": ("picks", 629),
    "metadata/pick_dialects/eman_box_256_unknown_micrograph.box": ("picks", 440),
    "metadata/pick_dialects/eman_box_autopick_bc_negative.box": ("picks", 53),
    "metadata/pick_dialects/eman_box_autopick_bc_positive.box": ("picks", 130),
    "metadata/pick_dialects/eman_box_with_score_crYOLO.box": ("picks", 719),
    "metadata/pick_dialects/eman_box_with_score_topaz.box": ("picks", 789),
    "metadata/pick_dialects/star_cassper_minus999.star": ("picks", 567),
    "metadata/pick_dialects/star_gautomatch.star": ("picks", 308),
    "metadata/pick_dialects/star_y_flipped_cryosegnet.star": ("picks", 629),
    "metadata/relion_1/out_it005_data.star": ("particles", 9),
    "metadata/relion_1/out_it005_model.star": ("refinement model", 1),
    "metadata/relion_1/out_it005_optimiser.star": ("refinement settings", 1),
    "metadata/relion_1/out_it005_sampling.star": ("orientation sampling", 192),
    "metadata/relion_3.0/FinalRefinement-OriginalParticles-PfCRT.star": ("particles", 5),
    "metadata/relion_3.0/micrographs_ctf_10025.star": ("micrographs", 30),
    "metadata/relion_3.0/particles_3796.star.gz": ("particles", 3796),
    "metadata/relion_3.0/picks_10025_particles.star": ("particles", 1500),
    "metadata/relion_3.1/ribosome_4ug0_particles.star": ("particles", 5),
    "metadata/relion_4.0/subtomograms.star": ("subtomograms", 1746),
    "metadata/relion_5/dc02t01_ctf.star": ("tilt series", 47),
    "metadata/relion_5/relion5_TS_01_tilt.star": ("tilt series", 40),
    "metadata/relion_other/default_pipeline.star": ("project", 31),
    "metadata/relion_other/postprocess.star": ("postprocessing", 49),
    "metadata/relion_other/run_it025_optimiser_3D.star": ("refinement settings", 1),
    "metadata/serialem/017.mdoc": ("tilt series", 60),
    "metadata/serialem/017.tlt": ("tilt angles", 60),
    "metadata/serialem/frame_set_multiple.mdoc": ("frame sets", None),
    "metadata/serialem/tilt_series.mdoc": ("tilt series", 41),
    "metadata/warp/017.xml": ("tilt series", 60),
    "metadata/warp/warp2_particles_matching.star": ("subtomograms", 1218),
    "malformed/basic_double_quote.star": ("table", 1),
    "malformed/empty_loop.star": ("picks", 0),
    "malformed/loop_double_quote.star": ("table", 2),
    "malformed/one_loop.star": ("subtomograms", 16),
    "malformed/single_line_end_of_multiblock.star": ("particles", 2),
    "malformed/two_single_line_loop_blocks.star": ("table", 1),
}
# file: what the error says
FAULTS = {
    "malformed/header_says_11029_images_file_has_1.mrcs": "header says 11029 images of 128 × 128, the file holds 1",
    "maps/ribosome_70s_spider.vol": r"SPIDER file \(100 × 100 × 100\), not MRC. Convert it",
}
SAMPLING = {
    "metadata/relion_1/out_it005_data.star": (None, 3.540002),
    "metadata/relion_3.0/particles_3796.star.gz": (None, 1.338),
    "metadata/relion_3.1/ribosome_4ug0_particles.star": (100, 4.0),
    "metadata/cryosparc/cryosparc_P12_J24_001_particles.cs": (180, 2.95),
    "stacks/empiar_10076/empiar_10076_7.star": (320, 1.309998),
    "stacks/empiar_10076/empiar_10076_7.cs": (320, 1.31),
    "stacks/filament/relion31.star": (256, 2.806),
    "stacks/filament/relion31.v2.star": (256, 2.806),
    "stacks/beta_galactosidase/sample_particles_relion30.star": (200, 1.338),
    "stacks/beta_galactosidase/sample_particles_relion31.star": (200, 1.4),
    "stacks/trpv1_small/trpv1_small_stack.star": (48, 4.88),
    "stacks/star_only/relion31.6opticsgroups.star": (196, [1.24, 1.25]),
    "apoferritin/particles/particles.star": (96, 2.5),
    "maps/emd_1997.map.gz": (100, 2.02),
    "maps/emd_1832.map": (64, 5.7),
    "maps/emd_3197.map.gz": (20, 11.4),
    "maps/zero_pixel_size_32.mrc": (32, None),
    "maps/EMD-3001.map.bz2": ([73, 43, 25], 0.44825),
}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_what_it_is(data_folder: Path, name: str) -> None:
    found = recognise(data_folder / name)
    kind, count = FILES[name]
    assert found.kind == kind
    assert count is None or found.facts["count"] == count


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_told_in_one_line(data_folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=FAULTS[name]) as caught:
        recognise(data_folder / name)
    assert "\n" not in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("folder", ["metadata", "malformed"])
def test_no_file_is_left_out_of_this_table(data_folder: Path, folder: str) -> None:
    there = {
        str(path.relative_to(data_folder))
        for path in (data_folder / folder).rglob("*")
        if path.is_file() and path.name not in (".gitkeep", "README.md")
    }
    assert there <= set(FILES) | set(FAULTS)


@pytest.mark.parametrize("name", SAMPLING)
def test_box_and_pixel_size_are_found(data_folder: Path, name: str) -> None:
    facts = recognise(data_folder / name).facts
    assert (facts["box_size"], facts["pixel_size"]) == SAMPLING[name]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".star")])
def test_every_star_survives_writing_and_reading(data_folder: Path, tmp_path: Path, name: str) -> None:
    before = read_star(data_folder / name)
    write_star(tmp_path / "out.star", before)
    after = read_star(tmp_path / "out.star")
    assert after.names == before.names
    for one, other in zip(before.blocks, after.blocks, strict=True):
        assert one.columns == other.columns and one.is_loop == other.is_loop
        assert all(one.text(column) == other.text(column) for column in one.columns)


def both_tables(data_folder: Path, one: str, other: str) -> tuple[Particles, Particles]:
    return tuple(read_particles(data_folder / name, need_images=False) for name in (one, other))  # type: ignore[return-value]


def test_star_and_cs_of_the_same_particles_agree(data_folder: Path) -> None:
    star, cs = both_tables(data_folder, *(f"stacks/empiar_10076/empiar_10076_7.{kind}" for kind in ("star", "cs")))
    assert star.optics is not None and cs.optics is not None
    for name, value in star.optics.__dict__.items():
        assert torch.allclose(value, cs.optics.__dict__[name], atol=0.05 if "defocus" in name else 1e-5), name
    assert torch.equal(star.images(slice(None)), cs.images(slice(None)))
    assert cs.sign is not None and cs.sign.tolist() == [-1] * 7
    # seven raw images are enough to see it
    assert any("look darker than the background" in warning for warning in recognise(star.path).warnings)
    assert recognise(cs.path).facts["stated_contrast"] == "dark"


def test_blocks_in_reverse_order_are_the_same_particles(data_folder: Path) -> None:
    one, other = both_tables(data_folder, "stacks/filament/relion31.star", "stacks/filament/relion31.v2.star")
    assert one.pose is not None and other.pose is not None and torch.equal(one.pose.rotation, other.pose.rotation)
    assert one.uid.tolist() == other.uid.tolist()


def test_relion_3_0_and_3_1_of_the_same_particles_agree(data_folder: Path) -> None:
    folder = "stacks/beta_galactosidase/sample_particles_relion"
    one, other = both_tables(data_folder, f"{folder}30.star", f"{folder}31.star")
    assert one.pose is not None and other.pose is not None
    rows = torch.arange(17) != 14  # the two files give this one particle another pose
    assert torch.allclose(one.pose.rotation[rows], other.pose.rotation[rows], atol=1e-6)
    assert one.optics is not None and other.optics is not None
    assert torch.equal(one.optics.defocus_u, other.optics.defocus_u)


def test_cryodrgn_made_the_same_poses_from_the_star(data_folder: Path) -> None:
    name = "metadata/relion_3.0/FinalRefinement-OriginalParticles-PfCRT.star"
    particles = read_particles(data_folder / name, need_images=False, box_size=300)
    expected = read_pose(data_folder / "metadata/cryodrgn/pose.star.pkl", particles.grid.extent)
    assert particles.pose is not None
    assert torch.allclose(particles.pose.rotation, expected.rotation, atol=1e-6)
    assert torch.allclose(particles.pose.shift, expected.shift, atol=1e-5)
    boxes, sizes, optics = read_ctf(data_folder / "metadata/cryodrgn/ctf1.pkl")
    assert particles.optics is not None and (set(boxes), set(sizes)) == ({300}, {1.035})
    for field in ("defocus_u", "defocus_v", "defocus_angle", "voltage", "cs", "phase_shift"):
        assert torch.allclose(getattr(particles.optics, field), getattr(optics, field), atol=1e-4), field


def test_cryodrgn_made_the_same_poses_from_the_cs(data_folder: Path) -> None:
    name = "metadata/cryosparc/cryosparc_P12_J24_001_particles.cs"
    particles = read_particles(data_folder / name, need_images=False)
    expected = read_pose(data_folder / "metadata/cryodrgn/pose.cs.pkl", particles.grid.extent)
    assert particles.pose is not None
    assert torch.allclose(particles.pose.rotation, expected.rotation, atol=2e-6)
    assert torch.allclose(particles.pose.shift, expected.shift, atol=1e-4)


def test_poses_and_latents_of_other_pickles_are_whole(data_folder: Path) -> None:
    pose = read_pose(data_folder / "stacks/synthetic_hand/hand_rot_trans.pkl", 64.0)
    assert len(pose) == 100 and torch.allclose(torch.linalg.det(pose.rotation), torch.ones(100), atol=1e-5)
    mean, log_variance = read_latent(data_folder / "metadata/cryodrgn/zvals_het-8_4k.pkl")
    assert mean.shape == (4549, 8) and log_variance is None
    packed = data_folder / "metadata/cryodrgn/empiar10049_ctf.pkl.gz"
    assert np.array_equal(read_pickle(packed)[0], np.load(_unpacked(packed), allow_pickle=True))


def _unpacked(path: Path):
    import io

    return io.BytesIO(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize("name", ["emd_1997.map.gz", "emd_1832.map", "emd_5625.map", "trpv1_small.mrc", "EMD-3001.map"])
def test_maps_hold_what_mrcfile_reads(data_folder: Path, name: str) -> None:
    values, header = read_array(data_folder / "maps" / name)
    with mrcfile.open(data_folder / "maps" / name, permissive=True) as reference:
        stored = reference.data
        order = [header.axes[::-1].index(axis) for axis in (3, 2, 1)]
        assert np.array_equal(values, stored.transpose(order))
        assert header.pixel_size[0] == pytest.approx(float(reference.voxel_size.x), rel=1e-5)
    if len(set(values.shape)) == 1:
        assert read_volume(data_folder / "maps" / name)[1].box_size == values.shape[0]


def test_real_apoferritin_raises_no_warning_and_survives_export(data_folder: Path, tmp_path: Path) -> None:
    path = data_folder / "apoferritin/particles/particles.star"
    found = recognise(path)
    assert found.warnings == () and found.facts["half_sets"] == [507, 493]
    particles = read_particles(path)
    write_particles_star(particles, tmp_path / "out.star")
    again = read_particles(tmp_path / "out.star")
    assert set(particles.table["particles"].columns) <= set(again.table["particles"].columns)
    assert again.pose is not None and particles.pose is not None
    assert torch.equal(again.pose.rotation, particles.pose.rotation)
    assert torch.equal(again.images([999]), particles.images([999]))


def test_a_table_whose_stack_was_renamed_says_which_file_to_give(data_folder: Path) -> None:
    path = data_folder / "stacks/trpv1_small/trpv1_small_stack.star"
    with pytest.raises(InputError, match=r"give --images trpv1_small_stack\.mrcs"):
        read_particles(path)
    assert read_particles(path, path.with_suffix(".mrcs")).images([9]).shape == (1, 48, 48)


def test_six_optics_groups_keep_their_own_optics(data_folder: Path) -> None:
    particles = read_particles(data_folder / "stacks/star_only/relion31.6opticsgroups.star", need_images=False)
    assert len(particles.grids) == 6 and particles.optics is not None
    assert particles.optics.beam_tilt_x[particles.group == 0].unique().tolist() == pytest.approx([0.657334])
    assert {warning.split()[0] for warning in particles.warnings} == {"rlnOddZernike", "rlnEvenZernike", "rlnMagMat"}

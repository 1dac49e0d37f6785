"""Images of a specimen equal line integrals through it, worked out in real space."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from frazil.data.mrc import write_volume
from frazil.errors import InputError
from frazil.numerics.fourier import coefficients_to_images
from frazil.physics.grid import Grid
from frazil.physics.pose import Pose
from frazil.simulate.models import read_atoms
from frazil.simulate.molecules import generate
from frazil.simulate.particles import draw_particles
from frazil.simulate.specimen import MovingMolecule, RigidDensity, even_box, read_map

PDB = """\
ATOM      1  N   ALA A   1      11.000  10.000  10.000  1.00  0.00           N
ATOM      2  CA  ALA A   1      15.000  10.000  10.000  1.00  0.00           C
ATOM      3  CB AALA A   1      10.000  14.000  12.000  0.60  0.00           C
ATOM      4  CB BALA A   1      50.000  14.000  12.000  0.40  0.00           C
ATOM      5  H   ALA A   1      10.000  90.000  10.000  1.00  0.00           H
HETATM    6  O   HOH A   2      90.000  10.000  10.000  1.00  0.00           O
END
"""


@pytest.mark.parametrize("box", [32, 33])
def test_a_hinge_image_is_the_line_integral_through_its_gaussians(box):
    grid = Grid(box, 6.0)
    specimen = MovingMolecule(generate("linear-1d", grid, 120.0, 7.0))
    drawn = draw_particles(specimen, grid, 3, optics=None, shift_range=10.0, states=3, seed=3)
    images = coefficients_to_images(drawn.coefficients(slice(0, 3), grid), grid.half_plane())
    axis = (np.arange(box) - box // 2) * grid.pixel_size
    body = specimen.molecule.body
    for row in range(3):
        centres = body.centres(drawn.conformations.latent[row : row + 1])[0].numpy()
        seen = centres @ drawn.pose.rotation[row].numpy().T
        x, y = (seen[:, :2] + drawn.pose.shift[row].numpy()).T
        # the integral of a 3-D Gaussian along z is a 2-D one
        spread = np.exp(-((axis - x[:, None]) ** 2) / 98), np.exp(-((axis - y[:, None]) ** 2) / 98)
        expected = np.einsum("jx,jy->yx", *spread) / (2 * np.pi * 49) / grid.pixel_size
        assert np.abs(images[row].numpy() - expected).max() < 2e-3 * expected.max()


def test_atoms_weigh_their_atomic_number_and_are_centred_without_water_hydrogen_and_second_conformers(tmp_path):
    path = tmp_path / "model.pdb"
    path.write_text(PDB)
    atoms = read_atoms(path, 4.0)
    assert atoms.amplitudes.tolist() == pytest.approx([7, 6, 3.6])
    assert torch.allclose(atoms.sigmas, torch.full((3,), 0.9))
    assert torch.allclose((atoms.centres * atoms.amplitudes[:, None]).sum(0), torch.zeros(3), atol=1e-4)
    assert float((atoms.centres[1] - atoms.centres[0])[0]) == pytest.approx(4.0)


def test_names_in_the_wrong_column_do_not_turn_carbon_into_calcium_nor_hydrogen_into_mercury(tmp_path):
    """Simulation programs write names from the first column and leave the element out."""
    lines = [
        "ATOM      1 N    MET     1     -11.053  26.680  12.742  1.00 84.71      4AKE",
        "ATOM      2 CA   MET     1     -10.097  25.954  13.632  1.00 76.22      4AKE",
        "ATOM      3 HG1  MET     1      -9.303  26.646  13.886  1.00  0.00      4AKE",
        "ATOM      4 SD   MET     1     -12.097  25.954  13.632  1.00 76.22      4AKE",
        "ATOM      5 N    GLY     2      -9.053  27.680  12.742  1.00 84.71      4AKE",
        "ATOM      6 CA   GLY     2      -8.097  25.954  15.632  1.00 76.22      4AKE",
    ]
    (tmp_path / "model.pdb").write_text("\n".join([*lines, "END", ""]))
    assert read_atoms(tmp_path / "model.pdb", 3.0).amplitudes.tolist() == [7, 6, 16, 7, 6]


def test_the_same_protein_from_four_programs_weighs_the_same(data_folder):
    folder = data_folder / "models" / "adenylate_kinase"
    names = ("adk_open.pdb.gz", "adk_closed.pdb.gz", "4akeA_alg_fixed.pdb.gz", "pdb1ake.pdb")
    weights = [float(read_atoms(folder / name, 3.0).amplitudes.sum()) for name in names]
    assert max(weights) / min(weights) < 1.01


def test_a_zipped_model_reads_the_same(tmp_path):
    (tmp_path / "model.pdb").write_text(PDB)
    (tmp_path / "model.pdb.gz").write_bytes(gzip.compress(PDB.encode()))
    plain, zipped = (read_atoms(tmp_path / name, 3.0) for name in ("model.pdb", "model.pdb.gz"))
    assert torch.equal(plain.centres, zipped.centres)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pdb", None, "no such file"),
        ("empty.pdb", "END\n", "no atoms"),
        ("broken.cif", "this is no model\n", "not a readable atomic model"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_atoms(path, 3.0)
    assert name in str(caught.value)


def test_a_map_seen_along_an_axis_is_the_sum_of_its_sections(tmp_path):
    noise = np.random.default_rng(0).normal(size=(24, 24, 24))
    window = np.zeros((24, 24, 24))
    window[6:18, 6:18, 6:18] = 1
    volume = gaussian_filter(noise * window, 1.2)
    write_volume(tmp_path / "map.mrc", volume.astype(np.float32), 2.5)
    specimen = RigidDensity(read_map(tmp_path / "map.mrc"))
    grid = Grid(24, 2.5)
    drawn = draw_particles(specimen, grid, 1, optics=None, shift_range=0.0, states=1, seed=0)
    # view axes are the map's x -> y, y -> z, z -> x
    turned = Pose(torch.tensor([[[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]]), torch.zeros(1, 2))

    image = coefficients_to_images(replace(drawn, pose=turned).coefficients(slice(0, 1), grid), grid.half_plane())[
        0
    ].numpy()
    expected = volume.sum(axis=2)  # over x; rows z are the view's y
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.999
    assert image.std() == pytest.approx(expected.std(), rel=0.03)


def test_a_box_is_even_and_half_as_wide_again_as_the_molecule():
    assert even_box(100.0, 2.0) == 76

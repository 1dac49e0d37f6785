"""A finished cryoDRGN run is opened as the ensemble it is, and a pickle that could do harm is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from frazil.cli import main
from frazil.data.cryodrgn import write_ctf, write_latent
from frazil.data.cryodrgn_run import is_cryodrgn_run, open_cryodrgn_run, read_weights
from frazil.errors import InputError
from frazil.numerics.fourier import volume_to_spectrum
from frazil.physics.optics import Optics

BOX, WIDTH, LATENT, NORM, COUNT = 12, 20, 2, 3.5, 5


def decoder_tensors(domain: str, width: int = WIDTH, features: int = 3 * (BOX // 2)) -> dict[str, Tensor]:
    """A decoder of random numbers under the names that cryodrgn gives."""
    generator = torch.Generator().manual_seed(5)
    inputs, outputs = 2 * features + LATENT, 2 if domain == "fourier" else 1
    entry = "0.linear" if inputs == width else "0"
    shapes = {entry: (width, inputs), "2.linear": (width, width), "4.linear": (width, width), "6": (outputs, width)}
    tensors = {"decoder.rand_freqs": 0.5 * torch.randn(features, 3, generator=generator)}
    for name, shape in shapes.items():
        tensors[f"decoder.decoder.main.{name}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        tensors[f"decoder.decoder.main.{name}.bias"] = torch.randn(shape[0], generator=generator)
    return tensors | {"encoder.main.0.weight": torch.zeros(3, 3)}


def write_run(folder: Path, domain: str = "fourier", width: int = WIDTH, **model_args: Any) -> Path:
    """The files that train_vae leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "dataset_args": {"norm": [0.0, NORM], "particles": "gone.mrcs", "ctf": str(folder / "ctf.pkl")},
        "lattice_args": {"D": BOX + 1, "extent": 0.5, "ignore_DC": True},
        "model_args": {"zdim": LATENT, "pe_type": "gaussian", "domain": domain, "activation": "relu", **model_args},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    for epoch in (1, 2):
        state = {"epoch": epoch, "model_state_dict": decoder_tensors(domain, width)}
        torch.save(state | {"optimizer_state_dict": {"state": {}}}, folder / f"weights.{epoch}.pkl")
        mean = np.full((COUNT, LATENT), epoch, np.float32)
        write_latent(folder / f"z.{epoch}.pkl", mean, np.log(np.full((COUNT, LATENT), 0.25, np.float32)))
    names = ("voltage", "cs", "amplitude_contrast", "defocus_u", "defocus_v", "defocus_angle")
    values = (300.0, 2.7, 0.1, 15000.0, 14000.0, 20.0)
    optics = Optics.make(**{name: torch.full((COUNT,), value) for name, value in zip(names, values, strict=True)})
    write_ctf(folder / "ctf.pkl", optics, np.full(COUNT, 4 * BOX), np.full(COUNT, 1.5))
    return folder


def hartley_by_definition(tensors: dict[str, Tensor], domain: str, k: Tensor, latent: Tensor) -> Tensor:
    """Re F - Im F at frequencies k (cycles per pixel), written out as cryoDRGN's papers and files define it."""
    # one half of space is decoded, the other is its conjugate; in the plane between, rows y < 0 and then x < 0 are decoded
    x, y, z = k.T
    flip = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0)))) if domain == "fourier" else x > 1
    k = torch.where(flip[:, None], -k, k)
    angle = k @ (tensors["decoder.rand_freqs"] * ((BOX + 1) // 2)).T
    h = torch.cat((angle.sin(), angle.cos(), latent.expand(len(k), -1)), dim=1)
    main = "decoder.decoder.main."
    for name in ("0", "0.linear", "2.linear", "4.linear"):
        if main + name + ".weight" in tensors:
            mapped = h @ tensors[main + name + ".weight"].T + tensors[main + name + ".bias"]
            h = torch.relu(mapped + h if "linear" in name else mapped)
    out = h @ tensors[main + "6.weight"].T + tensors[main + "6.bias"]
    return NORM * (out[:, 0] if domain == "hartley" else out[:, 0] - out[:, 1] * torch.where(flip, -1, 1))


@pytest.mark.parametrize(("domain", "width"), [("fourier", WIDTH), ("hartley", WIDTH), ("fourier", 2 * 18 + LATENT)])
def test_maps_are_those_of_the_decoder_by_its_definition(tmp_path: Path, domain: str, width: int) -> None:
    run = open_cryodrgn_run(write_run(tmp_path, domain, width))
    latent = torch.tensor([0.4, -1.2])
    ensemble = run.ensemble()
    assert (ensemble.grid.box_size, ensemble.grid.pixel_size, ensemble.latent_dim) == (BOX, 6.0, LATENT)
    spectrum = volume_to_spectrum(ensemble.density(latent).voxels(ensemble.grid))
    index = torch.tensor([[1, 0, 0], [2, -1, 3], [1, 2, -3], [3, 3, 2], [2, 0, -1]])  # x, y, z
    found = spectrum[index[:, 2], index[:, 1], index[:, 0]]
    expected = hartley_by_definition(decoder_tensors(domain, width), domain, index / BOX, latent)
    torch.testing.assert_close(found.real - found.imag, expected, atol=2e-4, rtol=1e-4)


def test_the_last_epoch_and_its_latents_are_taken(tmp_path: Path) -> None:
    run = open_cryodrgn_run(write_run(tmp_path))
    mean, covariance = run.latent()
    assert run.epoch == 2 and (mean == 2).all() and covariance is not None
    np.testing.assert_allclose(covariance[3], 0.25 * np.eye(2), rtol=1e-6)
    (tmp_path / "z.2.pkl").unlink()
    assert open_cryodrgn_run(tmp_path).epoch == 1


def test_the_pixel_size_is_that_of_the_images_not_of_the_original(tmp_path: Path) -> None:
    run = open_cryodrgn_run(write_run(tmp_path))
    assert run.pixel_size() == 6.0  # 1.5 Å in a box four times as large
    (tmp_path / "ctf.pkl").unlink()
    with pytest.raises(InputError, match="pixel size of this run is not known.*--pixel-size, in Å"):
        run.pixel_size()
    assert run.pixel_size(2.5) == 2.5


class Harm:
    """What a hostile checkpoint does when a careless program opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm-was-done"),))


def test_a_checkpoint_that_would_run_something_is_refused_before_it_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Harm()}, tmp_path / "weights.1.pkl")
    with pytest.raises(InputError, match="refused: it would build .*a checkpoint holds tensors only"):
        read_weights(tmp_path / "weights.1.pkl")
    assert not (tmp_path / "harm-was-done").exists()


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path) / "weights.2.pkl"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="weights.2.pkl: not a readable checkpoint"):
        read_weights(path)
    torch.save({"something": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="no model_state_dict in it. Give weights.N.pkl"):
        read_weights(path)
    torch.save({"model_state_dict": {"decoder.other.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(InputError, match="no residual decoder .* among its 1 tensors"):
        open_cryodrgn_run(tmp_path).ensemble()


def test_runs_that_are_not_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a decoder with encoding gaussian and activation leaky_relu is not known"):
        open_cryodrgn_run(write_run(tmp_path / "a", activation="leaky_relu")).ensemble()
    with pytest.raises(InputError, match="the first layer is .* was expected of a latent of 3 coordinates"):
        open_cryodrgn_run(write_run(tmp_path / "b", zdim=3)).ensemble()
    folder = write_run(tmp_path / "c")
    (folder / "config.yaml").write_text("model_args: {zdim: 2}\ndata_norm_mean: 0\n")
    with pytest.raises(InputError, match="an ab initio run: its decoder is another network"):
        open_cryodrgn_run(folder)
    (folder / "config.yaml").write_text("model_args: {}\nlattice_args: {D: 13}\n")
    with pytest.raises(InputError, match=r"config.yaml: model_args.zdim is missing"):
        open_cryodrgn_run(folder).ensemble(1.0)
    for text, message in (("a: [", "not plain YAML"), ("b: 1", "no model_args"), ("!!python/tuple [1]", "not plain")):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            open_cryodrgn_run(folder)
    for path in folder.glob("z.*"):
        path.unlink()
    write_run(tmp_path / "d")
    (folder / "config.yaml").write_text((tmp_path / "d" / "config.yaml").read_text())
    with pytest.raises(InputError, match=r"no epoch has both weights.N.pkl and z.N.pkl"):
        open_cryodrgn_run(folder)
    (tmp_path / "e").mkdir()
    assert not is_cryodrgn_run(tmp_path / "e")
    with pytest.raises(InputError, match="no config.yaml in it"):
        open_cryodrgn_run(tmp_path / "e")


def test_particles_that_are_gone_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.mrcs: the particles of this run are no longer there"):
        open_cryodrgn_run(write_run(tmp_path)).particles()


def test_inspect_says_what_a_run_is(tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(write_run(tmp_path / "run"))]) == 0
    said = capsys.readouterr().out
    assert "ensemble (cryoDRGN run)" in said and "no longer where it says (gone.mrcs)" in said
    assert "pixel size    6 Å" in said.replace("  ", "  ")

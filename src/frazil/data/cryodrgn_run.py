"""Finished cryoDRGN runs, opened as ensembles.

A run is a folder with `config.yaml`, `weights.N.pkl` and `z.N.pkl` (or the same without a number, for the last epoch).
Its decoder is a residual perceptron of a positional encoding, the network of `physics.field`; everything about it is read
from the names and shapes of the tensors, and from the configuration what those cannot say: the encoding's name and how
images were normalised. Layouts: cryodrgn 4.3 (train_vae, train_dec).

Two things differ from a field of frazil's own. Its frequencies run over an odd lattice of box + 1 points from -0.5 to 0.5,
which are those of the box. Images were divided by `norm` and, by default, multiplied by -1 before training, so that bright
density comes out when the particles are dark; a map is multiplied by `norm` again, and not by -1, as eval_vol does.

The weights are a pickle inside a zip archive. It is read by torch's restricted unpickler, which admits tensors and plain
containers and refuses everything else before it runs.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frazil.data.cryodrgn import read_ctf, read_indices, read_latent, read_pose
from frazil.data.stack import Particles, read_particles
from frazil.errors import InputError
from frazil.physics.field import ENCODINGS, FieldEnsemble, FieldNetwork
from frazil.physics.grid import Grid

_DECODER = "decoder.decoder.main."


@final
@dataclass(frozen=True)
class CryodrgnRun:
    """The files of a run and what its configuration says.

    Attributes:
        folder: of the run. weights, latents: the files of one epoch. epoch: its number as cryoDRGN counts it.
        settings: `config.yaml`, as nested dictionaries.
    """

    folder: Path
    weights: Path
    latents: Path
    epoch: int | None
    settings: dict[str, Any]

    @property
    def box_size(self) -> int:
        """Pixels along each side of the images."""
        return int(_setting(self, "lattice_args", "D")) - 1

    def latent(self) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d d"] | None]:
        """Mean and covariance of every particle's latent; no covariance where the run has an autodecoder.

        Raises:
            InputError: if the file is no latent pickle.
        """
        mean, log_variance = read_latent(self.latents)
        if log_variance is None:
            return mean, None
        return mean, np.exp(log_variance)[:, :, None] * np.eye(mean.shape[1], dtype=np.float32)

    def pixel_size(self, given: float | None = None) -> float:
        """Å per pixel of the images: as given, or from the run's CTF file.

        Raises:
            InputError: if neither is there.
        """
        if given is not None:
            return given
        path = self.path_of("ctf")
        if path is None or not path.is_file():
            raise InputError(
                "the pixel size of this run is not known: its CTF file is not where config.yaml says",
                where=self.folder / "config.yaml" if path is None else path,
                remedy="give --pixel-size, in Å of the images it was trained on",
            )
        boxes, sizes, _ = read_ctf(path)
        # cryoDRGN writes the size before downsampling, and takes the first row for all
        return float(sizes[0]) * float(boxes[0]) / self.box_size

    def path_of(self, name: str) -> Path | None:
        """The path of a data set's file in the configuration, where it is now: as written, or beside the run."""
        said = self.settings.get("dataset_args", {}).get(name)
        if not isinstance(said, str) or not said:
            return None
        path = Path(said)
        beside = self.folder / path.name
        return beside if not path.exists() and beside.exists() else path

    def particles(self) -> Particles:
        """The particles it was trained on, with its poses and CTF.

        Raises:
            InputError: if the table, or a pickle that belongs to it, is not where the configuration says.
        """
        path = self.path_of("particles")
        if path is None:
            raise InputError("it names no particles", where=self.folder / "config.yaml", remedy="complete it")
        if not path.exists():
            raise InputError(
                "the particles of this run are no longer there", where=path, remedy="put them back, or beside the run"
            )
        data = self.path_of("datadir")
        particles = read_particles(path, data, need_images=False)
        poses, ctf, rows = (self.path_of(name) for name in ("poses", "ctf", "ind"))
        if poses is not None and poses.is_file():
            extent = torch.from_numpy(np.array([g.extent for g in particles.grids])[particles.group.numpy()])
            particles = particles.given(pose=read_pose(poses, extent))
        if ctf is not None and ctf.is_file():
            particles = particles.given(optics=read_ctf(ctf)[2])
        return particles if rows is None else particles[read_indices(rows)]

    def ensemble(self, pixel_size: float | None = None) -> FieldEnsemble:
        """The decoder of the run.

        Raises:
            InputError: if the weights cannot be read safely, or are of another network than cryoDRGN's residual decoder.
        """
        tensors = read_weights(self.weights)
        network = self._network(tensors, Grid(self.box_size, self.pixel_size(pixel_size)))
        return FieldEnsemble(network)

    def _network(self, tensors: dict[str, Tensor], grid: Grid) -> FieldNetwork:
        latent_dim = int(_setting(self, "model_args", "zdim"))
        layers = _layers(tensors, self.weights)
        encoding = str(_setting(self, "model_args", "pe_type"))
        activation = str(self.settings.get("model_args", {}).get("activation", "relu"))
        if encoding not in ENCODINGS or activation != "relu":
            raise InputError(
                f"a decoder with encoding {encoding} and activation {activation} is not known here",
                where=self.folder / "config.yaml",
                remedy=f"known are {', '.join(ENCODINGS)}, with relu",
            )
        outputs, width = layers[-1][0].shape
        inputs = layers[0][0].shape[1]
        features = 0 if encoding == "none" else (inputs - latent_dim) // 6
        network = FieldNetwork(
            grid,
            latent_dim,
            width=width,
            layers=len(layers) - 2,
            encoding=encoding,  # type: ignore[arg-type]
            features=features,
            domain="fourier" if outputs == 2 else "hartley",
        )
        expected = network.perceptron.entry.weight.shape
        if tuple(expected) != tuple(layers[0][0].shape):
            raise InputError(
                f"the first layer is {tuple(layers[0][0].shape)}, {tuple(expected)} was expected of a latent of"
                f" {latent_dim} coordinates",
                where=self.weights,
                remedy="give the config.yaml that belongs to these weights",
            )
        network.load_state_dict(self._state(network, tensors, layers))
        return network

    def _state(
        self, network: FieldNetwork, tensors: dict[str, Tensor], layers: list[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors under the names of a `FieldNetwork`."""
        norm = self.settings.get("dataset_args", {}).get("norm", [0.0, 1.0])
        state = dict(network.state_dict())
        state["amplitude"] = torch.tensor(float(norm[1]))
        if "decoder.rand_freqs" in tensors:
            # cryoDRGN keeps unit frequencies and multiplies them by half its lattice when it encodes
            state["frequencies"] = tensors["decoder.rand_freqs"].float() * ((self.box_size + 1) // 2)
        names = ["entry", *(f"hidden.{i}" for i in range(len(layers) - 2)), "output"]
        for name, (weight, bias) in zip(names, layers, strict=True):
            state[f"perceptron.{name}.weight"], state[f"perceptron.{name}.bias"] = weight.float(), bias.float()
        return state


def is_cryodrgn_run(folder: Path) -> bool:
    """Whether a folder holds a configuration and weights of cryoDRGN."""
    return (folder / "config.yaml").is_file() and any(folder.glob("weights*.pkl"))


def open_cryodrgn_run(folder: Path) -> CryodrgnRun:
    """Find the files of the last epoch of a run.

    Raises:
        InputError: if one is missing, the configuration is no YAML, or the run is of a kind that is not known here.
    """
    import yaml

    folder = Path(folder)
    try:
        # the safe loader builds plain values only
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no config.yaml in it", where=folder, remedy="give the folder of a cryoDRGN run") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError("not plain YAML", where=folder / "config.yaml", remedy="copy the run's folder again") from None
    if not isinstance(settings, dict) or "model_args" not in settings:
        raise InputError("no model_args in it, so this is no configuration of cryoDRGN", where=folder / "config.yaml")
    if "data_norm_mean" in settings or "lattice_args" not in settings:
        raise InputError(
            "an ab initio run: its decoder is another network, which is not read here",
            where=folder / "config.yaml",
            remedy="train with given poses (train_vae), or use the run's own tools",
        )
    weights, latents, epoch = _last_epoch(folder)
    return CryodrgnRun(folder, weights, latents, epoch, settings)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Raises:
        InputError: if the file is damaged, holds no model, or would build anything but tensors and plain containers.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"refused: it would build {what.group(1) if what else 'more than tensors'}, a checkpoint holds tensors only",
            where=path,
            remedy="do not open it with other programs unless you know where it comes from",
        ) from None
    except (RuntimeError, EOFError, OSError, BadZipFile, KeyError, ValueError) as error:
        raise InputError(
            f"not a readable checkpoint ({type(error).__name__})", where=path, remedy="copy it again"
        ) from None
    state = found.get("model_state_dict") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("no model_state_dict in it", where=path, remedy="give weights.N.pkl of a cryoDRGN run")
    return dict(state)


def _layers(tensors: dict[str, Tensor], path: Path) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of every layer of the decoder, first to last."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for name, weight in tensors.items():
        match = re.fullmatch(re.escape(_DECODER) + r"(\d+)\.(linear\.)?weight", name)
        if match:
            # a first layer as wide as its input is residual too: h = relu(x + W x)
            whole = weight + torch.eye(len(weight)) if match.groups() == ("0", "linear.") else weight
            found[int(match.group(1))] = (whole, tensors[name.removesuffix("weight") + "bias"])
    layers = [found[number] for number in sorted(found)]
    residual = all(f"{_DECODER}{number}.linear.weight" in tensors for number in sorted(found)[1:-1])
    if len(layers) < 3 or not residual:
        raise InputError(
            f"no residual decoder ({_DECODER}*) among its {len(tensors)} tensors",
            where=path,
            remedy="runs of train_vae and train_dec with the default decoder can be opened",
        )
    return layers


def _last_epoch(folder: Path) -> tuple[Path, Path, int | None]:
    """Weights and latents of the last epoch for which both are there."""
    numbers = {}
    for path in folder.glob("weights.*.pkl"):
        match = re.fullmatch(r"weights\.(\d+)\.pkl", path.name)
        if match and (folder / f"z.{match.group(1)}.pkl").is_file():
            numbers[int(match.group(1))] = path
    if (folder / "weights.pkl").is_file() and (folder / "z.pkl").is_file():
        return folder / "weights.pkl", folder / "z.pkl", max(numbers, default=None)
    if not numbers:
        raise InputError(
            "no epoch has both weights.N.pkl and z.N.pkl", where=folder, remedy="train it to the end of an epoch"
        )
    last = max(numbers)
    return numbers[last], folder / f"z.{last}.pkl", last


def _setting(run: CryodrgnRun, group: str, name: str) -> Any:
    try:
        return run.settings[group][name]
    except (KeyError, TypeError):
        raise InputError(
            f"{group}.{name} is missing", where=run.folder / "config.yaml", remedy="copy the run's folder again"
        ) from None

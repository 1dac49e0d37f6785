"""Checkpoints: everything that a training run needs to go on as if it had never stopped, in one file.

The file is safetensors: tensors by name, and one JSON text in its header for all that is no tensor. It is written beside
its place and renamed, so that a kill at any moment leaves the last whole checkpoint. Nothing in it can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from frazil.engine.files import atomic_write
from frazil.errors import InputError

STATE = "state"  # the header's key of the JSON text


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes tensors and a state that JSON can hold (its floating-point numbers come back exactly)."""
    from safetensors.torch import save_file

    # safetensors wants each tensor to own its memory; a copy on the CPU does
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(copies, temporary, metadata={STATE: json.dumps(dict(state))})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_checkpoint` wrote.

    Raises:
        InputError: when the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file is no mapping: it cannot be iterated over
            return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()[STATE])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"this is not a checkpoint of frazil: {error}", where=path, remedy="run the job with --again"
        ) from None


# ------------------------------------------------------------------------------------------- parts of a checkpoint


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix/` before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `under` put there, under the original names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by name and the rest for JSON."""
    content = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in content["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    return tensors, {"groups": content["param_groups"], "numbers": numbers}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Takes an optimizer back to the state that `flatten_optimizer` gave."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["numbers"].items()}
    for place, tensor in tensors.items():
        index, name = place.split("/", 1)
        state.setdefault(int(index), {})[name] = tensor
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in rest["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the random number generators of torch (CPU and GPUs) and numpy."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # what libraries draw from
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.uint32).astype(np.int64))
    return tensors, {"numpy": [kind, position, has_gauss, gauss]}


def restore_random_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Takes the random number generators back to the state that `random_state` gave."""
    torch.set_rng_state(tensors["cpu"])
    devices = sorted(name for name in tensors if name.startswith("cuda"))
    if devices and torch.cuda.is_available() and torch.cuda.device_count() == len(devices):
        torch.cuda.set_rng_state_all([tensors[name] for name in devices])
    kind, position, has_gauss, gauss = rest["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))

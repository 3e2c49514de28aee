"""Weights on disk: read without ever running what a file contains, checked against the network they are for."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvision.core.errors import WeightsError

State = dict[str, torch.Tensor]

METADATA_KEY = "medvision"
"""The key of the safetensors metadata under which our contract is kept, as JSON."""

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model", "model_state_dict")


def read_weights(path: Path) -> tuple[State, dict[str, Any]]:
    """Tensors by name, and the contract in a safetensors file's metadata (empty where there is none).

    `.safetensors` holds tensors only. `.pt`, `.pth`, `.bin` and `.ckpt` are unpickled by PyTorch's restricted reader,
    which builds tensors and plain containers and refuses everything else before it runs.

    Raises:
        WeightsError: if the file is absent, of another kind, damaged, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path), {}
    known = ", ".join((".safetensors", *_TORCH_SUFFIXES))
    raise WeightsError(f"{path}: weights of kind {path.suffix or 'none'!r} are not read; known: {known}")


def read_metadata(path: Path) -> dict[str, Any]:
    """The contract in a safetensors file's metadata, without its tensors; empty where there is none.

    Raises:
        WeightsError: if the file is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as stream:
            text = (stream.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _contract(text, path)


def write_weights(path: Path, state: Mapping[str, torch.Tensor], contract: Mapping[str, Any]) -> None:
    """Write a safetensors file that carries its contract, whole or not at all. Equal input gives equal bytes."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in sorted(state.items())}
    text = json.dumps(contract, sort_keys=True, allow_nan=False)
    # Each process of a distributed training writes the same.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(save(tensors, metadata={METADATA_KEY: text}))
    os.replace(part, path)  # noqa: PTH105 - the one call that is atomic on every system


def apply_weights(net: nn.Module, state: State, path: Path) -> None:
    """Load `state` into `net`.

    Raises:
        WeightsError: if names or shapes do not match, naming the first few of each.
    """
    own = net.state_dict()
    missing = sorted(name for name in own if name not in state and not name.endswith("num_batches_tracked"))
    unknown = sorted(name for name in state if name not in own)
    shapes = sorted(
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    )
    problems = [
        f"{len(names)} {what}: {_brief(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(f"{path}: these weights are not for this network; {'; '.join(problems)}")
    net.load_state_dict(state, strict=False)


def name_of(path: Path) -> str:
    """What weights are called: their file, or its folder, as trainings call theirs model.safetensors."""
    return (path.resolve().parent.name if path.stem == "model" else "") or path.stem


def digest_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, whatever file they came from."""
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        array = value.detach().cpu().contiguous()
        total.update(f"{name}\0{array.dtype}\0{tuple(array.shape)}\0".encode())
        total.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            text = (stream.metadata() or {}).get(METADATA_KEY)
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return state, _contract(text, path)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path}: not a readable safetensors file ({error})")


def _contract(text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        contract = json.loads(text)
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: the contract in its metadata is not JSON ({error})") from error
    if not isinstance(contract, dict):
        raise WeightsError(f"{path}: the contract in its metadata is not a JSON object")
    return contract


def _read_torch(path: Path) -> State:
    try:
        with warnings.catch_warnings():
            # PyTorch warns of pickles of other protocols than its own; what matters of that is refused below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, because it holds more than tensors and reading it would run code; "
            "ask for a safetensors file or a plain state dictionary"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a readable PyTorch file ({error})") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path}: holds no dictionary of tensors")
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    other = sorted(name for name, value in state.items() if not isinstance(value, torch.Tensor))
    if other:
        raise WeightsError(f"{path}: not a plain state dictionary; not tensors: {_brief(other)}")
    return state


def _brief(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more

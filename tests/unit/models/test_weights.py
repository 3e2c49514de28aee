"""Weights files: nothing in them is ever run, and what does not fit is said."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from medvision.core.errors import WeightsError
from medvision.models.weights import apply_weights, digest_state, read_weights, write_weights


class Planted:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_pickle_that_would_run_code_is_refused_unexecuted(tmp_path: Path, suffix: str) -> None:
    trace = tmp_path / "trace"
    planted = tmp_path / f"weights{suffix}"
    torch.save({"layer": torch.zeros(2), "extra": Planted(trace)}, planted)
    with pytest.raises(WeightsError, match="refused"):
        read_weights(planted)
    assert not trace.exists()
    # The trap itself works: an unrestricted reader would have sprung it.
    torch.load(planted, weights_only=False)
    assert trace.exists()


def test_a_bare_pickle_is_refused_unexecuted(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    planted = tmp_path / "weights.pt"
    planted.write_bytes(pickle.dumps(Planted(trace)))
    with pytest.raises(WeightsError):
        read_weights(planted)
    assert not trace.exists()


def test_safetensors_keeps_values_and_contract(tmp_path: Path) -> None:
    state = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    path = tmp_path / "w.safetensors"
    write_weights(path, state, {"classes": ["x", "y"]})
    first = path.read_bytes()
    write_weights(path, dict(reversed(state.items())), {"classes": ["x", "y"]})
    assert path.read_bytes() == first
    found, contract = read_weights(path)
    assert contract == {"classes": ["x", "y"]}
    assert digest_state(found) == digest_state(state)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_plain_state_dictionaries_are_read_with_their_usual_wrappers(
    tmp_path: Path, wrapper: str | None
) -> None:
    inner = {"module.layer.weight": torch.ones(2)}
    path = tmp_path / "w.pth"
    torch.save(inner if wrapper is None else {wrapper: inner, "epoch": 3}, path)
    state, contract = read_weights(path)
    assert list(state) == ["layer.weight"]
    assert contract == {}


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\xff" * 64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(path)


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        read_weights(path)


def test_absent_files_and_unknown_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        read_weights(tmp_path / "absent.safetensors")
    other = tmp_path / "weights.onnx"
    other.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"\.onnx.*known: \.safetensors"):
        read_weights(other)


def test_metadata_that_is_not_a_contract_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata={"medvision": "{not json"})
    with pytest.raises(WeightsError, match="not JSON"):
        read_weights(path)
    save_file({"a": torch.ones(1)}, path, metadata={"medvision": json.dumps([1])})
    with pytest.raises(WeightsError, match="not a JSON object"):
        read_weights(path)


def test_a_checkpoint_with_other_things_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"weight": torch.ones(1), "epoch": 3}, path)
    with pytest.raises(WeightsError, match="not tensors: epoch"):
        read_weights(path)


def test_misfits_are_listed_briefly() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    state = {"0.weight": torch.zeros(5, 2), "0.bias": torch.zeros(3), "head.weight": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        apply_weights(net, state, Path("some.safetensors"))
    message = str(caught.value)
    assert "some.safetensors" in message
    assert "4 missing: 1.bias, 1.weight, 2.bias and 1 more" in message
    assert "1 unknown: head.weight" in message
    assert "0.weight (5, 2) instead of (3, 2)" in message


def test_the_digest_knows_names_shapes_types_and_values() -> None:
    base = digest_state({"a": torch.zeros(4)})
    assert base == digest_state({"a": torch.zeros(4)})
    others = [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.float64)},
        {"a": torch.tensor([0.0, 0, 0, 1e-9])},
    ]
    assert len({digest_state(o) for o in others} | {base}) == 5
    assert digest_state({"a": torch.tensor(3)}) != digest_state({"a": torch.tensor(4)})

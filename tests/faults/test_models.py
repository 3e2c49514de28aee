"""Model files that would run code are refused before they can; a device without memory gets smaller batches."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medvision.core.errors import MedvisionError
from medvision.core.geometry import Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import grid
from medvision.engine.sinks import RasterSink
from medvision.models.weights import read_weights
from medvision.sources.array_source import ArraySource


class Canary:
    """Unpickling this makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def bundle(path: Path, canary: Path) -> None:
    """A MONAI bundle's configuration, in which `$` begins an expression that its own loader would evaluate."""
    path.write_text(
        json.dumps({"network": f"$__import__('os').mkdir({str(canary)!r})", "imports": ["$import os"]})
    )


def archive(path: Path, canary: Path) -> None:
    """A bundle as it is handed round: an archive with the configuration inside, under a name of PyTorch's."""
    bundle(path.with_suffix(".json"), canary)
    with zipfile.ZipFile(path, "w") as out:
        out.write(path.with_suffix(".json"), "bundle/configs/inference.json")


def script(path: Path, canary: Path) -> None:
    """A Python file posing as weights."""
    path.write_text(f"import os\nos.mkdir({str(canary)!r})\n")


UNSAFE: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    **{
        f"PyTorch file {suffix} with a pickled call": (
            suffix,
            lambda path, canary: torch.save({"layer": torch.zeros(1), "extra": Canary(canary)}, path),
        )
        for suffix in (".pt", ".pth", ".bin", ".ckpt")
    },
    "PyTorch's old format with a pickled call": (
        ".pt",
        lambda path, canary: torch.save(Canary(canary), path, _use_new_zipfile_serialization=False),
    ),
    "whole module pickled": (
        ".pth",
        lambda path, canary: torch.save([nn.Linear(1, 1), Canary(canary)], path),
    ),
    "bare pickle": (".pt", lambda path, canary: path.write_bytes(pickle.dumps(Canary(canary)))),
    "pickle called safetensors": (
        ".safetensors",
        lambda path, canary: path.write_bytes(pickle.dumps(Canary(canary))),
    ),
    "pickle with its own suffix": (
        ".pkl",
        lambda path, canary: path.write_bytes(pickle.dumps(Canary(canary))),
    ),
    "MONAI bundle configuration": (".json", bundle),
    "MONAI bundle configuration called weights": (".pt", bundle),
    "MONAI bundle archive": (".zip", archive),
    "MONAI bundle archive called weights": (".pt", archive),
    "Python file called weights": (".pth", script),
}


def test_unsafe_weights_are_refused_unexecuted(tmp_path, fault_row):
    row = fault_row("unsafe weights", "pickles, checkpoints, MONAI bundles")
    for index, (suffix, make) in enumerate(UNSAFE.values()):
        canary, path = tmp_path / f"canary{index}", tmp_path / f"weights{index}{suffix}"
        make(path, canary)
        assert not canary.exists(), "the canary must wait for a reader"
        with pytest.raises(MedvisionError) as caught:
            read_weights(path)
        assert str(path) in str(caught.value)
        assert not canary.exists()
        row.count("refused unexecuted")


@pytest.mark.parametrize("suffix", [".pt", pytest.param(".json", marks=pytest.mark.slow)])
def test_the_traps_work(suffix, tmp_path):
    """Readers that are not careful would have sprung them."""
    canary, path = tmp_path / "canary", tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(Canary(canary), path)
        torch.load(path, weights_only=False)
    else:
        from monai.bundle import ConfigParser

        bundle(path, canary)
        ConfigParser(json.loads(path.read_text())).get_parsed_content("network")
    assert canary.exists()


class Small(nn.Module):
    """A device with room for `most` windows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("injected")
        return x.flatten(1).mean(1, keepdim=True)


def test_a_device_out_of_memory_gets_smaller_batches(fault_row):
    row = fault_row("device out of memory", "engine")
    source = ArraySource(
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), spacing=Spacing((0.5, 0.5))
    )
    plan = grid(source.id, (64, 64), (8, 8), spacing=source.spacing)
    values = []
    for most, recorded in ((64, 32), (16, 16), (5, 4), (3, 2), (1, 1)):
        model = PatchModel(
            name="mean", net=Small(most), window=(8, 8), spacing=None,
            normalisation=Normalisation((0.0,) * 3, (1.0,) * 3), output="scores", classes=("mean",), digest="mean",
            activation=lambda x: x,
        )  # fmt: skip
        settings = EngineSettings(device="cpu", batch_size=32)
        raster, stats = PatchEngine(settings).run(source, plan, model, RasterSink(plan, ("mean",)))
        assert stats.batch_size == recorded
        assert not stats.unread
        values.append(raster.values)
        row.count("batch halved and recorded" if recorded < 32 else "batch kept")
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-6)

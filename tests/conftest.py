"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the shared real data; tests that want it skip, with the reason, where it is absent."""
    given = os.environ.get("MEDVISION_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared real data, and {folder} is absent (set MEDVISION_DATA)")
    return folder


@pytest.fixture(scope="session")
def smoke_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the smoke cohort, drawn once: seven slides of some 1,400 px with their truth and `cohort.csv`."""
    from medvision.cli import run

    out = tmp_path_factory.mktemp("cohort")
    config = Path(__file__).resolve().parents[1] / "configs" / "cohort-smoke.yaml"
    assert run(["synthesize", "cohort", "--config", str(config), "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="session")
def results() -> Callable[[Path], dict[str, bytes]]:
    """`results(out)`: the files below an output folder that repeat between equal runs, by path."""
    of_run = {"run.json", "manifest-run.json", "report.html", "report.pdf"}

    def read(out: Path) -> dict[str, bytes]:
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in sorted(out.glob("*/**/*"))
            if path.is_file() and path.name not in of_run and ".medvision" not in path.parts
        }

    return read


@pytest.fixture(scope="session")
def threshold_model() -> Callable[..., Path]:
    """`threshold_model(path, axes=2, channels=1, at=0.5, **contract)`: a U-Net that tells bright pixels from others.

    Its weights are set by hand, so that its answer is known: the first class where the first channel, less the second
    of colours, is above `at` of the full range.
    """
    import torch

    from medvision.models.segmentation import (
        build_segment_net,
        usual_segment_contract,
        write_segment_model,
    )

    def write(path: Path, axes: int = 2, channels: int = 1, at: float = 0.5, **contract: object) -> Path:
        usual = {
            "classes": ("background", "bright"),
            "channels": channels,
            "window": (64,) * axes,
            "mean": (0.0,) * channels,
            "std": (1.0,) * channels,
            "options": {"width": 1 / 32, "depth": 1, "norm": "none"},
        }
        made = usual_segment_contract("unet", **{**usual, **contract})
        net = build_segment_net(made)
        middle = (1,) * axes
        with torch.no_grad():
            for values in net.parameters():
                values.zero_()
            for block in (net.down[0], net.up[0]):
                block[0].weight[(0, 0, *middle)] = 1.0
                block[2].weight[(0, 0, *middle)] = 1.0
            if channels > 1:
                net.down[0][0].weight[(0, 1, *middle)] = -1.0
            net.heads[0].weight[1, 0] = 200.0
            net.heads[0].bias[1] = -200.0 * at
        write_segment_model(path, net, made)
        return path

    return write

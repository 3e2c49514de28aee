"""A batch of segmentations on a real Prefect server, with a network whose answers are known."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvision.cli import run as medvision
from medvision.pipelines.ledger_check import check_ledger
from medvision.store.records import RunIndex

pytestmark = [
    pytest.mark.flow,
    pytest.mark.timeout(600),
    # Prefect's server and clients leave sockets and loops to the interpreter's end
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]


def test_a_folder_of_images(tmp_path: Path, threshold_model: Callable[..., Path]) -> None:
    """Each is segmented or fails by itself; the page, the table and the ledger say so; a second run keeps all."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        pixels = np.full((70, 80), 30, np.uint8)
        pixels[10 : 30 + 10 * number, 20:50] = 220
        Image.fromarray(pixels).save(images / f"case{number}.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    model = threshold_model(tmp_path / "model.safetensors")
    out = tmp_path / "out"
    command = ["batch-segment", str(images), "--out", str(out), "--model", str(model), "--pattern", "*.png"]
    assert medvision(command) == 1
    index = RunIndex.model_validate_json((out / "index.json").read_bytes())
    assert index.item == "case"
    assert {one.name: one.status for one in index.outcomes} == {
        "broken": "failed",
        "case0": "done",
        "case1": "done",
    }
    with (out / "cohort.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert float(rows["case1"]["share_bright"]) == pytest.approx(900 / 5600, abs=1e-6)
    assert np.asarray(Image.open(out / "case0" / "mask.png")).sum() == 600
    assert check_ledger(out) == []
    (images / "broken.png").unlink()
    assert medvision(command) == 0
    again = RunIndex.model_validate_json((out / "index.json").read_bytes())
    assert {one.status for one in again.outcomes if one.name != "broken"} == {"unchanged"}

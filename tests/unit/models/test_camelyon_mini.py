"""What the shipped model says of drawn and rendered windows; the numbers change only when the weights do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medvision.metrics.ranking import roc_auc
from medvision.models import load_model
from medvision.synthetic import synthetic_patches

GOLDEN = Path(__file__).parents[2] / "golden" / "camelyon_mini_scores.json"
SIDE = 128


Colour = tuple[int, int, int]


def discs(radius: float, count: int, nucleus: Colour, ground: Colour, seed: int) -> npt.NDArray[np.uint8]:
    """A window of soft-edged nuclei on a ground: one array expression, so that it is the same everywhere."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    cover = np.zeros((SIDE, SIDE))
    for row, column in random.uniform(0, SIDE, (count, 2)):
        distance = np.hypot(rows - row, columns - column)
        cover = np.maximum(cover, np.clip(radius + 0.5 - distance, 0, 1))
    image = cover[..., None] * np.array(nucleus) + (1 - cover[..., None]) * np.array(ground)
    return np.rint(image).astype(np.uint8)


def windows() -> dict[str, npt.NDArray[np.uint8]]:
    return {
        "glass": np.full((SIDE, SIDE, 3), 243, np.uint8),
        "small dark nuclei": discs(6, 180, (70, 40, 110), (225, 190, 215), 1),
        "large pale nuclei": discs(14, 40, (150, 110, 170), (215, 160, 200), 2),
        "stroma": discs(3, 12, (90, 60, 130), (235, 170, 200), 3),
    }


def test_scores_of_drawn_windows_are_the_recorded_ones() -> None:
    recorded = json.loads(GOLDEN.read_text())
    model = load_model()
    assert recorded["digest"] == model.digest
    with torch.inference_mode():
        scores = model(torch.from_numpy(np.stack(list(windows().values()))))[:, 1].tolist()
    found = dict(zip(windows(), scores, strict=True))
    assert found.keys() == recorded["tumor"].keys()
    for name, score in found.items():
        assert abs(score - recorded["tumor"][name]) < 2e-3, (name, score)


def test_rendered_tumour_outscores_rendered_normal_tissue() -> None:
    images, labels = synthetic_patches(16, seed=77)
    small = images.reshape(16, SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    with torch.inference_mode():
        scores = load_model()(torch.from_numpy(small))[:, 1].numpy()
    assert roc_auc(labels, scores) >= 0.95

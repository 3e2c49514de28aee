"""Tables of classified images for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True, eq=False)
class Made:
    """Two tables, and what is in them."""

    predictions: Path
    truth: Path
    labels: np.ndarray
    probabilities: np.ndarray


@pytest.fixture
def images(tmp_path):
    """Makes tables of so many images per class, whose probabilities favour the right one, written with 6 digits."""

    def make(counts: dict[str, int], seed: int = 0, groups: int = 0) -> Made:
        random = np.random.default_rng(seed)
        labels = random.permutation(np.repeat(np.arange(len(counts)), list(counts.values())))
        logits = random.normal(0, 1, (len(labels), len(counts))) + 1.5 * np.eye(len(counts))[labels]
        p = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 6)
        names = list(counts)
        said, truth = tmp_path / "said.csv", tmp_path / "truth.csv"
        rows = [f"i{i},{','.join(f'{v:.6f}' for v in row)}" for i, row in enumerate(p)]
        said.write_text("\n".join([f"image,{','.join(names)}", *random.permutation(rows)]) + "\n")
        of = [f",g{i % groups}" if groups else "" for i in range(len(labels))]
        head = "image,label,group" if groups else "image,label"
        truth.write_text("\n".join([head, *(f"i{i},{names[y]}{of[i]}" for i, y in enumerate(labels))]) + "\n")
        return Made(said, truth, labels, p)

    return make

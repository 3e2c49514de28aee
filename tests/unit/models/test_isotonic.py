"""An isotonic table in a model's contract: what it does to probabilities, and which tables are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medvision.models import load_model
from medvision.models.catalogue import MODELS
from medvision.models.contract import IsotonicSoftmax, WeightsContract
from medvision.models.weights import read_weights, write_weights

KNOTS = ((0.1, 0.02), (0.4, 0.3), (0.6, 0.3), (0.9, 0.7))


def test_the_positive_class_follows_the_table_and_rows_sum_to_one() -> None:
    logits = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 4
    before = torch.softmax(logits / 1.5, dim=1).numpy()
    after = IsotonicSoftmax(1.5, KNOTS, 1)(logits).numpy()
    x, y = np.array(KNOTS).T
    np.testing.assert_allclose(after[:, 1], np.interp(before[:, 1], x, y), atol=1e-6)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(after[:, 0] * before[:, 2], after[:, 2] * before[:, 0], atol=1e-6)


def test_a_wholly_certain_network_still_gives_a_distribution() -> None:
    after = IsotonicSoftmax(1.0, KNOTS, 0)(torch.tensor([[500.0, 0.0, 0.0]]))
    np.testing.assert_allclose(after.numpy(), [[0.7, 0.15, 0.15]], atol=1e-6)
    single = IsotonicSoftmax(1.0, ((0.5, 0.25),), 0)(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(single.numpy(), [[0.25, 0.75]] * 2, atol=1e-6)


@pytest.mark.parametrize(
    ("knots", "message"),
    [
        (((0.5, 0.1), (0.2, 0.3)), "not in rising order"),
        (((0.2, 0.4), (0.5, 0.3)), "not in rising order"),
        (((0.2, 0.4), (0.5, 1.3)), "must be probabilities"),
        ((), "at least 1"),
    ],
)
def test_other_tables_are_refused(knots: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WeightsContract.model_validate(
            {"architecture": "a", "classes": ("n", "t"), "window_px": 8, "spacing_um": 1, "isotonic": knots}
        )


def test_a_model_carries_its_table(tmp_path: Path) -> None:
    state, contract = read_weights(MODELS["camelyon-mini"].path)
    plain = load_model()
    path = tmp_path / "calibrated.safetensors"
    write_weights(path, state, {**contract, "isotonic": KNOTS})
    model = load_model(weights=path)
    windows = torch.randint(0, 256, (4, *plain.window, 3), dtype=torch.uint8)
    with torch.inference_mode():
        before, after = plain(windows), model(windows)
    assert isinstance(before, torch.Tensor)
    assert isinstance(after, torch.Tensor)
    x, y = np.array(KNOTS).T
    np.testing.assert_allclose(after[:, 1], np.interp(before[:, 1], x, y), atol=1e-6)
    assert model.digest != plain.digest

"""Every shipped model of the catalogue keeps the contract that the engine relies on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.engine.contract import PatchModel
from medvision.models import MODELS, list_models, load_model
from medvision.models.weights import read_weights, write_weights

MAX_BYTES = 8_000_000


@pytest.fixture(params=[name for name, entry in MODELS.items() if entry.file is not None])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> PatchModel:
    return load_model(name)


def windows(model: PatchModel, count: int) -> torch.Tensor:
    random = np.random.default_rng(0)
    coarse = random.integers(60, 255, (count, *(side // 8 for side in model.window), 3))
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
    return torch.from_numpy(fine.astype(np.uint8))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_n_windows_in_n_probabilities_out(model: PatchModel, count: int) -> None:
    with torch.inference_mode():
        scores = model(windows(model, count))
    assert scores.shape == (count, len(model.classes))
    assert scores.dtype == torch.float32
    assert torch.allclose(scores.sum(dim=1), torch.ones(count), atol=1e-5)
    assert scores.min() >= 0


def test_evaluation_is_deterministic(model: PatchModel) -> None:
    batch = windows(model, 4)
    with torch.inference_mode():
        assert torch.equal(model(batch), model(batch))


def test_a_score_does_not_depend_on_the_batch(model: PatchModel) -> None:
    batch = windows(model, 6)
    with torch.inference_mode():
        together = model(batch)
        alone = torch.cat([model(batch[k : k + 1]) for k in range(6)])
        turned = model(batch.flip(0)).flip(0)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, turned, atol=1e-5)


def test_allowed_precisions_agree(model: PatchModel) -> None:
    batch = windows(model, 4)
    with torch.inference_mode():
        exact = model(batch)
        if "bfloat16" in model.precisions:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = model(batch)
            assert (rough.float() - exact).abs().max() < 0.03


def test_bare_glass_is_not_positive(model: PatchModel) -> None:
    glass = torch.full((1, *model.window, 3), 243, dtype=torch.uint8)
    with torch.inference_mode():
        score = model(glass)[0, model.classes.index(str(model.positive))]
    assert score < 0.5


def test_the_weights_survive_a_round_trip(name: str, model: PatchModel, tmp_path: Path) -> None:
    state, contract = read_weights(MODELS[name].path)
    copy = tmp_path / "copy.safetensors"
    write_weights(copy, state, contract)
    again = load_model(name, weights=copy)
    assert again.digest == model.digest
    assert (again.classes, again.window, again.normalisation) == (
        model.classes,
        model.window,
        model.normalisation,
    )
    with torch.inference_mode():
        assert torch.equal(again(windows(model, 2)), model(windows(model, 2)))


def test_the_digest_knows_one_changed_weight(name: str, model: PatchModel, tmp_path: Path) -> None:
    state, contract = read_weights(MODELS[name].path)
    first = next(key for key, value in state.items() if value.is_floating_point())
    state[first].view(-1)[0] += 1e-3
    changed = tmp_path / "changed.safetensors"
    write_weights(changed, state, contract)
    assert load_model(name, weights=changed).digest != model.digest


def test_the_digest_knows_the_contract(name: str, model: PatchModel) -> None:
    assert load_model(name, spacing_um=1.0).digest != model.digest
    assert load_model(name, positive=model.classes[0]).digest != model.digest


def test_the_file_is_small_and_its_card_says_what_it_is_for(name: str) -> None:
    entry = MODELS[name]
    assert entry.path.suffix == ".safetensors"
    assert entry.path.stat().st_size <= MAX_BYTES
    assert "Research use only" in entry.card
    assert "0.5" in entry.card


def test_the_documented_card_is_the_shipped_one(name: str) -> None:
    documented = Path(__file__).parents[2] / "docs" / "models" / f"{name}.md"
    assert documented.read_text(encoding="utf-8") == MODELS[name].card


def test_the_list_has_a_row_for_each() -> None:
    rows = list_models()
    assert [row.name for row in rows] == list(MODELS)
    for row in rows:
        assert row.intended_use == "research use only"
        if row.megabytes is None:  # its weights are local: tests/conformance/test_ncrf.py
            continue
        model = load_model(row.name)
        assert model.window == (row.window_px, row.window_px)
        assert model.spacing is not None
        assert model.spacing.values == (row.spacing_um, row.spacing_um)
        assert row.classes == model.classes
        assert row.positive == model.positive
        assert row.auc is not None
        assert 0.5 < row.auc <= 1

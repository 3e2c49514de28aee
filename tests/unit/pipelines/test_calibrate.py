"""A calibrated copy of a model's weights: what it computes, what it says of itself, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.cli import run
from medvision.core.errors import UsageError, WeightsError
from medvision.metrics.calibration import expected_calibration_error
from medvision.models import load_model
from medvision.models.catalogue import MODELS
from medvision.models.contract import WeightsContract
from medvision.models.weights import read_weights, write_weights
from medvision.pipelines.calibrate import Method, calibrate, cross_fit

MINI = MODELS["camelyon-mini"].path


def over_confident(n: int = 3000, seed: int = 0):
    """Labels, probabilities whose logits are twice too large, and the 30 slides they come from."""
    random = np.random.default_rng(seed)
    margins = random.normal(0, 1.5, n)
    labels = random.random(n) < 1 / (1 + np.exp(-margins))
    return labels, 1 / (1 + np.exp(-2 * margins)), tuple(f"s{i}" for i in random.integers(0, 30, n))


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_the_copy_gives_calibrated_probabilities(tmp_path: Path, method: Method) -> None:
    assert MINI is not None
    labels, p, slides = over_confident()
    out = tmp_path / "calibrated.safetensors"
    done = calibrate(MINI, out, labels, p, slides, method, "3000 made-up windows")
    assert done.cross_fitted
    assert done.before.calibration_error > 0.08
    assert done.after.calibration_error < 0.03
    assert done.after.brier < done.before.brier
    before, after = load_model(), load_model(weights=out)
    assert after.calibration.startswith(
        f"{'temperature scaling' if method == 'temperature' else 'isotonic calibration'} on 3000 made-up windows; "
        "expected calibration error 0."
    )
    assert after.digest != before.digest
    # The network is that of the original: its margins, through the calibration, are what the copy gives.
    fresh_labels, fresh, _ = over_confident(seed=1)
    logits = torch.tensor(np.stack([np.zeros(3000), np.log(fresh / (1 - fresh))], axis=1)) * load_temperature(
        MINI
    )
    mapped = after.activation(logits)
    assert isinstance(mapped, torch.Tensor)
    assert expected_calibration_error(fresh_labels, mapped[:, 1].numpy()) < 0.04
    state, _ = read_weights(MINI)
    assert all(torch.equal(state[name], value) for name, value in read_weights(out)[0].items())


def load_temperature(path: Path) -> float:
    return WeightsContract.model_validate(read_weights(path)[1]).temperature


def test_temperature_multiplies_the_present_one(tmp_path: Path) -> None:
    assert MINI is not None
    labels, p, slides = over_confident(20000)
    done = calibrate(MINI, tmp_path / "t.safetensors", labels, p, slides, "temperature", "d")
    assert done.contract.temperature == pytest.approx(2 * load_temperature(MINI), rel=0.05)


def test_cases_of_one_slide_stay_together() -> None:
    labels, p, slides = over_confident(400)
    seen: list[int] = []

    def fit(y, q):
        seen.append(len(y))
        return lambda values: values

    found = cross_fit(fit, labels, p, slides)
    np.testing.assert_array_equal(found, p)
    assert len(seen) == 5
    assert sum(seen) == 4 * 400
    assert cross_fit(fit, labels, p, tuple("abcd"[i % 4] for i in range(400))) is None
    # One slide holds all positives: the fold without it has nothing to fit.
    assert cross_fit(fit, labels, p, tuple("p" if y else f"n{i}" for i, y in enumerate(labels))) is None


def test_the_command_writes_the_weights_and_the_plot(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels, p, slides = over_confident(600)
    rows = [f"{s},{int(y)},{q:.5f}" for s, y, q in zip(slides, labels, p, strict=True)]
    table = tmp_path / "patches.csv"
    table.write_text("slide,label,probability\n" + "\n".join(rows) + "\n")
    out = tmp_path / "new" / "mini.safetensors"
    arguments = ["calibrate", "camelyon-mini", "--predictions", str(table), "--out", str(out)]
    assert run([*arguments, "--method", "isotonic"]) == 0
    assert "isotonic calibration on 600 windows of 30 slides (patches.csv)" in " ".join(
        capfd.readouterr().out.split()
    )
    said = json.loads((out.parent / "mini-calibration.json").read_text())
    assert said["after"]["cross_fitted"]
    assert said["isotonic"] == [list(knot) for knot in read_weights(out)[1]["isotonic"]]
    assert (out.parent / "mini-reliability.png").read_bytes().startswith(b"\x89PNG")
    assert run([*arguments[:1], str(out), *arguments[2:-1], str(tmp_path / "again.safetensors")]) == 2
    assert "carries an isotonic calibration already" in capfd.readouterr().err
    assert run(["calibrate", "ncrf-absent", *arguments[2:]]) == 2


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    assert MINI is not None
    labels, p, slides = over_confident(100)
    out = tmp_path / "c.safetensors"

    def attempt(weights: Path = MINI, out: Path = out, y=labels, method: str = "temperature") -> None:
        calibrate(weights, out, y, p[: len(y)], slides[: len(y)], method, "d")  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="0 positive and 100 negative cases"):
        attempt(y=np.zeros(100, bool))
    with pytest.raises(UsageError, match="at least 50"):
        attempt(y=labels[:20])
    with pytest.raises(UsageError, match=r"positive cases have the lower probabilities \(AUC 0\.\d+\)"):
        attempt(y=~labels)
    with pytest.raises(UsageError, match="known: temperature, isotonic"):
        attempt(method="platt")
    with pytest.raises(UsageError, match=r"written as \.safetensors"):
        attempt(out=tmp_path / "c.pt")
    state, contract = read_weights(MINI)
    bare, three = tmp_path / "bare.safetensors", tmp_path / "three.safetensors"
    write_weights(bare, state, {})
    with pytest.raises(WeightsError, match="carries no contract"):
        attempt(bare)
    write_weights(three, state, {**contract, "classes": ["a", "b", "tumor"]})
    with pytest.raises(UsageError, match="one of 3 classes gives no temperature"):
        attempt(three)
    with pytest.raises(UsageError, match="name another"):
        attempt(three, three, method="isotonic")

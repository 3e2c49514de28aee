"""Scoring single pictures: how they meet the model's window, what is written, and what happens to bad files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from medvision.core.errors import UsageError
from medvision.engine.contract import PatchModel
from medvision.models.catalogue import as_patch_model
from medvision.models.contract import WeightsContract
from medvision.pipelines.classify import Classified, ClassifyOutcome, classify_images, list_images


class Darkness(torch.nn.Module):
    """Logits whose second class says how dark the window is on average."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        dark = 1 - windows.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(dark), 10 * (dark - 0.5)], dim=1)


def probability(mean_value: float) -> float:
    """What `Darkness` gives for a window of this mean grey value."""
    return float(1 / (1 + np.exp(-10 * (0.5 - mean_value / 255))))


@pytest.fixture
def model() -> PatchModel:
    contract = WeightsContract(
        architecture="darkness",
        classes=("light", "dark"),
        window_px=16,
        spacing_um=0.5,
        mean=(0,) * 3,
        std=(1,) * 3,
    )
    return as_patch_model("darkness", Darkness(), contract)


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def flat(value: int, rows: int = 32, columns: int = 32) -> npt.NDArray[np.uint8]:
    return np.full((rows, columns, 3), value, np.uint8)


def run(paths: list[Path], model: PatchModel, out: Path, spacing_um: float | None = None) -> ClassifyOutcome:
    return classify_images(paths, model, out, spacing_um=spacing_um, device="cpu", batch_size=4)


def only(outcome: ClassifyOutcome) -> Classified:
    assert outcome.failed == ()
    (result,) = outcome.results
    return result


def test_a_folder_is_scored_in_order_and_written(tmp_path: Path, model: PatchModel) -> None:
    values = [30, 90, 128, 200, 250, 10, 60]
    for index, value in enumerate(values):
        save(tmp_path / "in" / ("deep" if index % 2 else "") / f"{index}.png", flat(value))
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    outcome = run([tmp_path / "in"], model, tmp_path / "out")
    assert len(outcome.results) == len(values)
    assert outcome.failed == ()
    for result in outcome.results:
        value = values[int(Path(result.path).stem)]
        assert result.probabilities["dark"] == pytest.approx(probability(value), abs=1e-5)
        assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert result.predicted == ("dark" if value < 127.5 else "light")
        assert result.windows == 1
    written = json.loads(outcome.file.read_text())
    assert outcome.file == tmp_path / "out" / "results.json"
    assert [r["path"] for r in written["results"]] == [r.path for r in outcome.results]
    assert written["results"][0]["probabilities"].keys() == {"light", "dark"}
    assert written["model_digest"] == model.digest
    assert "Research use only" in written["notice"]


def test_a_picture_without_spacing_shows_one_window(tmp_path: Path, model: PatchModel) -> None:
    checks = np.zeros((32, 32, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    result = only(run([save(tmp_path / "a.png", checks)], model, tmp_path / "out"))
    assert result.probabilities["dark"] == pytest.approx(0.5, abs=0.02)
    assert result.spacing.startswith("assumed: 0.25 µm/px")
    assert "whole picture of 32 px resized to a window of 16 px at 0.5 µm/px" in result.fit
    assert result.shape == (32, 32)


def test_the_assumption_is_area_averaging_of_the_whole_field(tmp_path: Path) -> None:
    class Corner(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return torch.stack([windows[:, 0, 0, 0], windows[:, 0, -1, -1]], dim=1) * 255

    contract = WeightsContract(
        architecture="c",
        classes=("a", "b"),
        window_px=4,
        spacing_um=1.0,
        mean=(0,) * 3,
        std=(1,) * 3,
        temperature=100,
    )
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    result = only(
        run([save(tmp_path / "p.png", pixels)], as_patch_model("c", Corner(), contract), tmp_path / "o")
    )
    first, last = pixels[:2, :2, 0].mean(), pixels[-2:, -2:, 0].mean()
    expected = 1 / (1 + np.exp(-(last - first) / 100))
    assert result.probabilities["b"] == pytest.approx(expected, abs=0.01)


def test_an_assumption_that_is_hardly_true_says_so(tmp_path: Path, model: PatchModel) -> None:
    large = only(run([save(tmp_path / "a.png", flat(200, 128, 128))], model, tmp_path / "out"))
    assert large.spacing.startswith("assumed: 0.0625 µm/px")
    assert "pass the true spacing" in large.spacing


def test_an_oblong_picture_gives_its_central_square(tmp_path: Path, model: PatchModel) -> None:
    pixels = flat(255, 32, 96)
    pixels[:, 32:64] = 20
    result = only(run([save(tmp_path / "a.png", pixels)], model, tmp_path / "out"))
    assert result.probabilities["dark"] == pytest.approx(probability(20), abs=1e-4)
    assert "central square of 32 px" in result.fit


def test_with_spacing_a_larger_picture_is_covered_by_windows(tmp_path: Path, model: PatchModel) -> None:
    pixels = flat(250, 64, 64)
    pixels[:32, :32] = 10
    result = only(run([save(tmp_path / "a.png", pixels)], model, tmp_path / "out", spacing_um=0.25))
    assert result.windows == 4
    assert result.spacing == "supplied: 0.25 µm/px"
    values = [probability(10), probability(250), probability(250), probability(250)]
    assert result.probabilities["dark"] == pytest.approx(np.mean(values), abs=1e-4)
    assert result.maxima["dark"] == pytest.approx(max(values), abs=1e-4)
    assert result.predicted == "light"


def test_windows_of_an_odd_size_stay_inside(tmp_path: Path, model: PatchModel) -> None:
    result = only(run([save(tmp_path / "a.png", flat(100, 50, 70))], model, tmp_path / "out", spacing_um=0.5))
    assert result.windows == 4 * 5
    assert result.probabilities["dark"] == pytest.approx(probability(100), abs=1e-5)
    assert result.maxima["dark"] == pytest.approx(probability(100), abs=1e-5)


def test_a_field_close_to_one_window_is_resized_and_a_smaller_one_padded(
    tmp_path: Path, model: PatchModel
) -> None:
    path = save(tmp_path / "a.png", flat(40, 32, 32))
    close = only(run([path], model, tmp_path / "out", spacing_um=0.243))
    assert close.probabilities["dark"] == pytest.approx(probability(40), abs=1e-4)
    assert close.spacing == "supplied: 0.243 µm/px"
    assert "whole picture" in close.fit
    small = only(run([path], model, tmp_path / "out", spacing_um=0.125))
    assert small.windows == 1
    assert small.probabilities["dark"] == pytest.approx(probability((64 * 40 + 192 * 255) / 256), abs=1e-3)


def test_bad_files_are_listed_with_their_reason_and_do_not_stop_the_rest(
    tmp_path: Path, model: PatchModel
) -> None:
    good = save(tmp_path / "good.png", flat(50))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    text = tmp_path / "text.txt"
    text.write_text("hello")
    outcome = run([bad, good, text], model, tmp_path / "out")
    assert [r.path for r in outcome.results] == [good.as_posix()]
    assert [f.path for f in outcome.failed] == [bad.as_posix(), text.as_posix()]
    assert all(f.reason for f in outcome.failed)
    written = json.loads(outcome.file.read_text())
    assert [f["path"] for f in written["failed"]] == [bad.as_posix(), text.as_posix()]


def test_the_order_of_files_and_the_batch_do_not_change_scores(tmp_path: Path, model: PatchModel) -> None:
    paths = [save(tmp_path / f"{k}.png", flat(20 * k, 32, 32)) for k in range(9)]
    first = run(paths, model, tmp_path / "a")
    second = classify_images(paths[::-1], model, tmp_path / "b", device="cpu", batch_size=2)
    assert {r.path: r.probabilities for r in first.results} == {
        r.path: r.probabilities for r in second.results
    }
    assert [r.path for r in second.results] == [p.as_posix() for p in paths[::-1]]


def test_nothing_to_score_is_a_usage_error(tmp_path: Path, model: PatchModel) -> None:
    with pytest.raises(UsageError, match="no such file"):
        list_images([tmp_path / "absent"])
    with pytest.raises(UsageError, match="no pictures"):
        run([tmp_path], model, tmp_path / "out")
    with pytest.raises(UsageError, match="no path given"):
        list_images([])


def test_a_file_named_twice_is_scored_once(tmp_path: Path, model: PatchModel) -> None:
    path = save(tmp_path / "a.png", flat(10))
    assert list_images([path, tmp_path]) == [path]


def test_a_model_of_another_kind_is_refused(tmp_path: Path, model: PatchModel) -> None:
    from dataclasses import replace

    path = save(tmp_path / "a.png", flat(10))
    with pytest.raises(UsageError, match="choose a classifier"):
        run([path], replace(model, output="image"), tmp_path / "out")


@pytest.mark.parametrize("spacing_um", [-1.0, 0.0, 1e-7, 1000.0, float("nan"), float("inf")])
def test_an_impossible_spacing_is_refused_before_anything_is_written(
    tmp_path: Path, model: PatchModel, spacing_um: float
) -> None:
    path = save(tmp_path / "a.png", flat(10))
    with pytest.raises(UsageError, match=r"--image-spacing .* is outside 0\.02 to 100") as caught:
        run([path], model, tmp_path / "out", spacing_um=spacing_um)
    assert "--slide-spacing" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_before_scoring(tmp_path: Path, model: PatchModel) -> None:
    path = save(tmp_path / "a.png", flat(10))
    scored: list[int] = []
    with pytest.raises(UsageError, match=r"a\.png is there and is not a folder"):
        classify_images([path], model, path / "out", device="cpu", on_windows=scored.append)
    assert scored == []

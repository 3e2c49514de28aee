"""A study of transfer: fair by construction, kept part by part, and its page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.cli import run as medvision
from medvision.core.errors import UsageError
from medvision.metrics.ranking import roc_auc
from medvision.models.weights import digest_state, read_weights
from medvision.training.config_file import validated
from medvision.training.transfer_config import TransferConfig, read_transfer_config

CONFIGS = Path(__file__).parents[3] / "configs"
SMOKE = CONFIGS / "study-transfer-smoke.yaml"


def draw_set(folder: Path, seed: int, kinds: tuple[str, str], train: int = 6, test: int = 8) -> Path:
    """`folder/SPLIT/KIND/N.png`: the first kind with a bright disc, the second with a bright bar."""
    rng = np.random.default_rng(seed)
    for side, count in (("train", train), ("test", test)):
        for number, kind in enumerate(kinds):
            (folder / side / kind).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = rng.normal(90, 25, (40, 40))
                row, column = (int(v) for v in rng.integers(12, 28, 2))
                if number:
                    cv2.rectangle(pixels, (column - 10, row - 3), (column + 10, row + 3), 200.0, -1)
                else:
                    cv2.circle(pixels, (column, row), 7, 200.0, -1)
                path = folder / side / kind / f"{index}.png"
                cv2.imwrite(str(path), pixels.clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    draw_set(folder / "source", 1, ("disc", "bar"), train=20)
    draw_set(folder / "target", 2, ("round", "straight"))
    return folder


def run(data: Path, out: Path, config: Path = SMOKE) -> int:
    return medvision(["study", "transfer", "--config", str(config), "--data", str(data), "--out", str(out)])


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    assert run(data, out) == 0
    return out


def test_every_training_is_a_row_of_the_table_and_is_scored_on_the_same_images(done: Path) -> None:
    rows = list(csv.DictReader((done / "transfer.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3 * 3, "seeds, ways"
    assert {row["steps"] for row in rows} == {"2"}
    one = next(r for r in rows if (r["arm"], r["seed"], r["images_per_class"]) == ("staged", "1", "4"))
    folder = done / "parts" / "one set to another" / "4-images-seed-1" / "staged"
    answers = list(csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    truth = [row["image"].split("/")[1] == "straight" for row in answers]
    assert len(answers) == 16
    assert float(one["AUC"]) == pytest.approx(
        roc_auc(truth, [float(a["straight"]) for a in answers]), abs=1e-6
    )


def test_arms_start_from_where_they_say(done: Path) -> None:
    state, _ = read_weights(done / "sources" / "one set to another" / "model.safetensors")
    folder = done / "parts" / "one set to another" / "4-images-seed-0"
    start = {
        arm: json.loads((folder / arm / "report.json").read_bytes())["start"]
        for arm in ("from scratch", "staged")
    }
    assert start["from scratch"] == {"from": "random weights", "tensors": 0, "digest": ""}
    assert start["staged"]["digest"] == digest_state(state)
    assert start["staged"]["tensors"] == len(state) - 2, "all but the head's weights and biases"
    assert "slim-resnet of bar, disc" in start["staged"]["from"]


def test_the_result_has_means_intervals_and_paired_differences(done: Path) -> None:
    content = json.loads((done / "transfer.json").read_bytes())
    (one,) = content["transfers"]
    assert one["images"] == {"to draw from": 12, "test": 16, "test groups": None}
    assert len(one["results"]) == 2 * 3
    for entry in one["results"]:
        low, high = entry["interval"]
        assert low <= entry["mean"] <= high
        assert entry["mean"] == pytest.approx(np.mean(entry["seeds"]))
        assert ("difference" in entry) == (entry["arm"] != "from scratch")
    of = {(e["arm"], e["figure"], e["images per class"]): e for e in one["results"]}
    gained = of["staged", "AUC", 4]["mean"] - of["from scratch", "AUC", 4]["mean"]
    assert of["staged", "AUC", 4]["difference"] == pytest.approx(gained)
    page = (done / "transfer.html").read_text(encoding="utf-8")
    assert "RESEARCH USE ONLY" in page and "published" not in page.split("</style>")[1]
    assert "not for diagnosis" in (done / "transfer.md").read_text(encoding="utf-8")


def test_parts_that_are_done_are_kept_and_their_weights_are_not(
    done: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not list((done / "parts").rglob("*.safetensors")) and not list((done / "parts").rglob("*.pt"))
    before = {path: path.stat().st_mtime_ns for path in (done / "parts").rglob("part.json")}
    lost = sorted(before)[3]
    lost.unlink()
    table = (done / "transfer.csv").read_text()
    assert run(data, done) == 0
    after = {path: path.stat().st_mtime_ns for path in (done / "parts").rglob("part.json")}
    assert [path for path in before if after[path] != before[path]] == [lost]

    def without_seconds(text: str) -> list[str]:
        return [line.rpartition(",")[0] for line in text.splitlines()]

    assert without_seconds((done / "transfer.csv").read_text()) == without_seconds(table)


def test_parts_of_another_study_are_refused(
    done: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SMOKE.read_text().replace("average: 0.9", "average: 0.8"))
    assert run(data, done, other) == 2
    assert "of a study with other images, weights or settings" in capsys.readouterr().err


def test_a_source_that_has_a_target_image_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_set(tmp_path / "source", 1, ("disc", "bar"))
    draw_set(tmp_path / "target", 2, ("round", "straight"))
    stolen = tmp_path / "target" / "test" / "round" / "3.png"
    (tmp_path / "source" / "train" / "disc" / "stolen.png").write_bytes(stolen.read_bytes())
    assert run(tmp_path, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "learns from an image of the target" in said and "'test/round/3.png'" in said


def test_too_few_images_are_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "many.yaml"
    config.write_text(SMOKE.read_text().replace("[4]", "[4, 40]"))
    assert run(data, tmp_path / "out", config) == 2
    assert (
        "asks for 40 training images of each class; there are round 6, straight 6" in capsys.readouterr().err
    )


def stage(train: str, steps: int) -> dict[str, object]:
    return {"train": train, "steps": steps}


def study(**given: object) -> dict[str, object]:
    target = {"name": "t", "images": {"folder": "t", "group": "image"}, "trunk": "slim-resnet"}
    arms = [
        {"name": "scratch", "pretrained": False, "stages": [stage("all", 5)]},
        {"name": "head", "pretrained": True, "stages": [stage("head", 5)]},
    ]
    return {
        "transfers": [{"name": "a to b", "weights": "w.safetensors", "target": target}],
        "arms": arms,
        "images_per_class": [5],
        **given,
    }


def two_arms(first: bool, steps: int) -> list[dict[str, object]]:
    """Arms of which the second is pretrained and learns for `steps`; the first for 5."""
    return [
        {"name": "a", "pretrained": first, "stages": [stage("all", 5)]},
        {"name": "b", "pretrained": True, "stages": [stage("all", steps)]},
    ]


def one_transfer(**given: object) -> dict[str, object]:
    return {"transfers": [{"name": "x", "target": {"name": "t", "images": {"folder": "t"}}, **given}]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arms": two_arms(False, 6)}, "same number of steps; they have a 5, b 6"),
        ({"arms": two_arms(True, 5)}, "the first arm starts from random"),
        ({"seeds": [1, 2]}, "seeds"),
        ({"seeds": [1, 2, 2]}, "one is there twice"),
        ({"images_per_class": [0]}, "at least 1"),
        (one_transfer(name="../up", weights="w"), "becomes a folder's name"),
        (one_transfer(), "`weights` and `source`"),
        (
            one_transfer(weights="w", target={"name": "t", "images": {"folder": "t"}, "seed": 3}),
            "seed is set by",
        ),
        (
            one_transfer(source={"name": "s", "images": {"folder": "s"}, "trunk": "resnet18"}),
            "the source trains resnet18 and the target inception_v3",
        ),
    ],
)
def test_a_study_that_is_not_fair_or_not_clear_is_refused(given: dict[str, object], said: str) -> None:
    validated(study(), TransferConfig)
    with pytest.raises(UsageError, match=said):
        validated(study(**given), TransferConfig)


def test_the_studies_that_are_published_can_be_read() -> None:
    photographs = read_transfer_config(CONFIGS / "study-transfer.yaml").transfers[1]
    assert photographs.source is not None and photographs.source.images.classes is not None
    assert not set(photographs.source.images.classes) & set(photographs.target.images.classes or ())
    study = read_transfer_config(CONFIGS / "study-transfer-photographs.yaml")
    assert {one.weights.suffix for one in study.transfers if one.weights is not None} == {".pth"}
    assert study.transfers[1].target.images.voc is not None

"""Whole images by a classifier of images: what is written of each, maps, scope, faults, and the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medvision.cli import run as medvision
from medvision.core.errors import UsageError, WeightsError
from medvision.models.classifiers.start import build
from medvision.models.explain import last_map
from medvision.models.image_contract import ImageContract, Scope
from medvision.models.image_model import ImageModel
from medvision.models.weights import write_weights
from medvision.pipelines.classify_image import check_image_config, classify_image, image_engine
from medvision.pipelines.classify_images import list_still_images
from medvision.pipelines.configured_image import ReadyImageModel
from medvision.pipelines.image_config import ImageConfig
from medvision.pipelines.saliency import explain, occlusion_steps
from medvision.report.build import read_record
from medvision.sources import Limits
from medvision.store.image_records import ImageResult

SIDE = 48
CLASSES = ("disc", "square", "neither")


def picture(seed: int, rows: int = 60, columns: int = 72) -> np.ndarray:
    """Grey noise."""
    return np.random.default_rng(seed).integers(60, 140, (rows, columns), np.uint8)


def weights(folder: Path, **contract: object) -> Path:
    """A small network with random weights, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = build("slim-resnet", 3)
    said = {
        "architecture": "slim-resnet",
        "classes": CLASSES,
        "input_px": SIDE,
        "scope": Scope(energy=50.0, brightness=(0.2, 0.7), aspect=(0.8, 1.5), smallest_px=40, grey=True),
        "figures": {"auc": {"value": 0.91, "interval": (0.8, 0.97), "protocol": "mean, 60 test images"}},
        "version": "1",
        **contract,
    }
    path = folder / "shapes.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(path, net.state_dict(), ImageContract.model_validate(said).model_dump(mode="json"))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three grey pictures, one of 16 bits, one in colour, and one that is none; two in a folder below."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "inner").mkdir()
    Image.fromarray(picture(1)).save(folder / "a.png")
    Image.fromarray(picture(2)).save(folder / "inner" / "b.jpg", quality=95)
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(picture(3).astype(np.uint16) * 257))
    colour = np.random.default_rng(4).integers(0, 256, (60, 72, 3), np.uint8)
    Image.fromarray(colour).save(folder / "inner" / "colour.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "notes.txt").write_text("not an image")
    return folder


class Spot(nn.Module):
    """Two classes; the second means that something bright is there, wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 5, stride=4)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight[0] = 1 / 75
            self.conv.weight[1] = -1 / 75
            self.conv.bias.copy_(torch.tensor([-0.6, 0.6]))
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [900.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -3.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.conv(images)).mean(dim=(2, 3)))
        return found


def spot_model() -> ReadyImageModel:
    contract = ImageContract(
        architecture="spot",
        classes=("dark", "spot"),
        input_px=64,
        mean=(0.4, 0.4, 0.4),
        std=(1.0, 1.0, 1.0),
    )
    net = Spot().eval()
    with torch.no_grad():
        net.conv.bias += torch.tensor([0.4, -0.4])  # the network sees the image less its mean
    own = ImageModel("spot", net, contract)
    engine = image_engine(ImageConfig(model=Path("spot"), device="cpu"))
    ready = ReadyImageModel(own, own.patch_model, "0", engine.device, engine.prepare(own.patch_model))
    ready.last_map = last_map(net, 64)
    return ready


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
@pytest.mark.parametrize("place", [(12, 40), (44, 16)])
def test_both_maps_peak_where_the_class_shows(method: str, place: tuple[int, int]) -> None:
    image = np.full((64, 64), 60, np.uint8)
    image[place[0] - 5 : place[0] + 5, place[1] - 5 : place[1] + 5] = 250
    config = ImageConfig(
        model=Path("spot"), device="cpu", saliency=method, occlusion_px=10, occlusion_stride=3
    )  # type: ignore[arg-type]
    found = explain(spot_model(), image, "spot", config, image_engine(config))
    assert found is not None and found.info.class_name == "spot"
    step = 64 / found.square.shape[0]
    peak = np.argwhere(found.square == found.square.max()).mean(axis=0) * step + step / 2
    assert np.abs(peak - place).max() < 6, "in the middle of the spot"
    far = found.square[
        (np.abs(np.indices(found.square.shape) * step + step / 2 - np.array(place)[:, None, None]) > 20).any(
            0
        )
    ]
    assert far.max() < 0.1, "and nowhere else"
    if method == "occlusion":
        assert found.raw.max() > 0.5, "hiding the spot takes most of the probability"
        assert found.info.scale <= found.raw.max(), "the mean of the squares over a pixel"
        assert found.raw.shape == (len(occlusion_steps(64, config)),) * 2 == (19, 19)


def test_the_dark_class_shows_in_no_spot() -> None:
    image = np.full((64, 64), 60, np.uint8)
    image[20:30, 20:30] = 250
    config = ImageConfig(model=Path("spot"), device="cpu", saliency_class="dark")
    found = explain(spot_model(), image, "spot", config, image_engine(config))
    assert found is not None and found.info.scale == 0 and not found.square.any()


def test_what_is_written_of_an_image(model: Path, images: Path, tmp_path: Path) -> None:
    config = ImageConfig(model=model, device="cpu")
    outcome = classify_image(images / "a.png", tmp_path, config)
    assert (outcome.status, outcome.reason, outcome.name) == ("done", "", "a")
    result = read_record(tmp_path / "a" / "result.json", ImageResult)
    assert result.in_scope and [m.name for m in result.qc] == [
        "smaller side",
        "aspect",
        "brightness",
        "colour",
        "energy",
    ]
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert (
        result.predicted == outcome.label == max(result.probabilities, key=lambda n: result.probabilities[n])
    )
    assert outcome.probability == result.probabilities[result.predicted]
    assert result.image.shape == (60, 72) and result.image.grey and result.image.bits == 8
    assert result.saliency is not None and result.saliency.shape == (3, 3)
    assert np.load(tmp_path / "a" / "saliency.npy").shape == (3, 3)
    page = (tmp_path / "a" / "report.html").read_text()
    assert "RESEARCH USE ONLY" in page and "Grad-CAM" in page and result.predicted in page
    assert "0.910" in page and "0.800 – 0.970" in page and "src=" not in page.replace('src="data:', "")

    again = classify_image(images / "a.png", tmp_path, config)
    assert again.status == "unchanged" and again.digests == outcome.digests
    other = classify_image(images / "a.png", tmp_path, config.model_copy(update={"saliency": "none"}))
    assert other.status == "done" and not (tmp_path / "a" / "saliency.png").exists()
    plain = read_record(tmp_path / "a" / "result.json", ImageResult)
    assert plain.probabilities == result.probabilities, "a map does not touch the answer"


def test_two_runs_write_the_same_bytes(model: Path, images: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        classify_image(
            images / "a.png", tmp_path / name, ImageConfig(model=model, device="cpu", saliency="occlusion")
        )
    for name in ("result.json", "manifest.json", "thumbnail.jpg", "saliency.png", "saliency.npy"):
        first, second = (tmp_path / run / "a" / name for run in ("one", "two"))
        assert first.read_bytes() == second.read_bytes(), name


def test_an_image_unlike_the_training_is_flagged(model: Path, images: Path, tmp_path: Path) -> None:
    config = ImageConfig(model=model, device="cpu")
    outcome = classify_image(images / "inner" / "colour.png", tmp_path, config)
    assert outcome.status == "done" and outcome.reason.startswith(
        "unlike the training images: it is in colour"
    )
    result = read_record(tmp_path / "colour" / "result.json", ImageResult)
    assert result.in_scope is False and [m.name for m in result.qc if not m.ok] == ["colour"]
    page = (tmp_path / "colour" / "report.html").read_text()
    assert "Unlike the training images" in page and "should not be used" in page and "tone-warning" in page


def test_of_two_classes_the_probability_is_that_of_the_one_looked_for(images: Path, tmp_path: Path) -> None:
    file = weights(tmp_path / "w", positive="square")
    outcome = classify_image(
        images / "a.png", tmp_path / "out", ImageConfig(model=file, device="cpu", saliency="none")
    )
    result = read_record(tmp_path / "out" / "a" / "result.json", ImageResult)
    assert outcome.probability == result.probabilities["square"]


def test_deep_grey_is_shown_as_in_training_or_as_asked(model: Path, images: Path, tmp_path: Path) -> None:
    config = ImageConfig(model=model, device="cpu", saliency="none")
    bare = classify_image(images / "deep.png", tmp_path / "a", config)
    assert bare.status == "failed" and "16 bits" not in bare.reason and "no window is given" in bare.reason
    asked = classify_image(
        images / "deep.png", tmp_path / "b", config.model_copy(update={"image_window": "full"})
    )
    assert asked.status == "done"
    result = read_record(tmp_path / "b" / "deep" / "result.json", ImageResult)
    assert result.image.bits == 16 and result.image.shown == "full range 0 to 65535"
    trained = weights(tmp_path / "w", window="0,65535")
    own = classify_image(images / "deep.png", tmp_path / "c", config.model_copy(update={"model": trained}))
    assert own.status == "done"


def test_an_alias_stands_for_the_name_in_all_that_is_written(
    model: Path, images: Path, tmp_path: Path
) -> None:
    named = tmp_path / "Quixote-Jane.png"
    named.write_bytes((images / "a.png").read_bytes())
    broken = tmp_path / "Quixote-John.png"
    broken.write_bytes(b"no image")
    out, config = tmp_path / "out", ImageConfig(model=model, device="cpu")
    done = classify_image(named, out, config, "slide-1", alias="slide-1", limits=Limits())
    failed = classify_image(broken, out, config, "slide-2", alias="slide-2", limits=Limits())
    assert done.status == "done" and failed.status == "failed"
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    said = (written + done.model_dump_json().encode() + failed.model_dump_json().encode()).lower()
    assert b"quixote" not in said and b"jane" not in said
    plain = classify_image(named, tmp_path / "plain", config)
    assert plain.label == done.label and plain.probability == done.probability


def test_what_is_wrong_with_the_parameters_raises(model: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        check_image_config(ImageConfig(model=tmp_path / "none.safetensors", device="cpu"))
    with pytest.raises(UsageError, match="'ring' is none of the model's: disc, square, neither"):
        check_image_config(ImageConfig(model=model, device="cpu", saliency_class="ring"))
    with pytest.raises(UsageError, match="--occlusion-px 48 hides the whole input of 48 px"):
        check_image_config(ImageConfig(model=model, device="cpu", saliency="occlusion", occlusion_px=48))
    with pytest.raises(ValueError, match="'dark' is no window; choose LOW,HIGH"):
        ImageConfig(model=model, image_window="dark")


def test_names_of_images_are_those_of_labels(images: Path, tmp_path: Path) -> None:
    listed = list_still_images([images, images / "a.png", images / "inner" / "b.jpg"])
    assert [one.name for one in listed] == [
        "a.png",
        "broken.png",
        "deep.png",
        "inner/b.jpg",
        "inner/colour.png",
    ]
    twin = tmp_path / "a.png"
    twin.write_bytes((images / "a.png").read_bytes())
    assert [one.name for one in list_still_images([images / "a.png", twin])] == [
        f"{images.name}/a.png",
        f"{tmp_path.name}/a.png",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no images \(.png"):
        list_still_images([tmp_path / "empty"])


def table(path: Path) -> dict[str, list[str]]:
    with path.open(newline="") as stream:
        return {row[0]: row[1:] for row in csv.reader(stream)}


def test_the_command_writes_pages_and_tables(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["classify", str(images), "--model", str(model), "--out", str(out), "--device", "cpu"]
    assert medvision([*given, "--image-window", "full"]) == 1, "one is broken"
    said = capsys.readouterr().out
    assert "failed" in said and "broken.png" in said and "unlike the training images" in said
    for name in ("a", "b", "deep", "colour"):
        assert (out / name / "report.html").is_file() and (out / name / "result.json").is_file()
    assert (out / "index.html").is_file() and (out / "ledger.sqlite").is_file()
    pages = table(out / "predictions.csv")
    assert pages.pop("image") == list(CLASSES)
    assert set(pages) == {"a.png", "deep.png", "inner/b.jpg", "inner/colour.png"}
    results = json.loads((out / "results.json").read_bytes())
    assert [one["image"] for one in results["failed"]] == ["broken.png"] and "not for diagnosis" in results[
        "notice"
    ]

    fast = tmp_path / "fast"
    again = ["classify", str(images), "--model", str(model), "--out", str(fast), "--device", "cpu"]
    assert medvision([*again, "--image-window", "full", "--predictions-only", "--batch-size", "3"]) == 1
    assert not (fast / "index.html").exists()
    found = table(fast / "predictions.csv")
    found.pop("image")
    assert set(found) == set(pages)
    for name, values in found.items():
        np.testing.assert_allclose(np.array(values, float), np.array(pages[name], float), atol=2e-6)

    truth = tmp_path / "truth.csv"
    truth.write_text("image,label\n" + "".join(f"{name},{CLASSES[k % 3]}\n" for k, name in enumerate(pages)))
    scores = ["--truth", str(truth), "--out", str(tmp_path / "scores"), "--resamples", "20"]
    assert medvision(["evaluate", "classify", "--predictions", str(out / "predictions.csv"), *scores]) == 0
    assert (
        medvision(
            ["classify", str(images / "broken.png"), "--model", str(model), "--out", str(tmp_path / "x")]
        )
        == 2
    )


def test_an_archive_is_classified_by_split(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "set.npz"
    arrays = {
        f"{part}_images": np.stack([picture(k, 28, 28) for k in range(n)])
        for part, n in (("val", 2), ("test", 5))
    }
    np.savez(archive, **arrays, val_labels=np.zeros((2, 1), np.uint8), test_labels=np.zeros((5, 1), np.uint8))
    given = [
        "classify",
        str(archive),
        "--model",
        str(model),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert medvision([*given, "--predictions-only"]) == 0
    assert list(table(tmp_path / "out" / "predictions.csv"))[1:] == [f"test/{k}" for k in range(5)]
    results = json.loads((tmp_path / "out" / "results.json").read_bytes())["results"]
    assert all("28 × 28 px" in one["reason"] for one in results), "smaller than any of the training"
    assert medvision([*given, "--predictions-only", "--split", "val"]) == 0
    assert len(table(tmp_path / "out" / "predictions.csv")) == 3
    assert medvision([*given, "--predictions-only", "--split", "dev"]) == 2
    assert "no split 'dev'; choose --split among val, test" in " ".join(capsys.readouterr().err.split())
    assert medvision(given) == 2
    assert "--predictions-only" in capsys.readouterr().err


def test_options_of_the_other_kind_are_refused(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["classify", str(images / "a.png"), "--out", str(tmp_path / "out")]
    assert medvision([*given, "--model", str(model), "--spacing", "0.5"]) == 2
    assert "--spacing: for a model of windows of slides" in " ".join(capsys.readouterr().err.split())
    assert medvision([*given, "--saliency", "none"]) == 2
    assert "--saliency: for weights of `medvision train classify`" in " ".join(
        capsys.readouterr().err.split()
    )
    assert medvision([*given, "--model", str(model), "--split", "test"]) == 2
    assert not (tmp_path / "out").exists()


def test_images_of_one_name_are_kept_apart_from_run_to_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, files = tmp_path / "out", [tmp_path / name / "x.png" for name in ("a", "b", "c")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        Image.fromarray(picture(number)).save(file)
    given = ["--model", str(model), "--out", str(out), "--device", "cpu", "--saliency", "none"]
    assert medvision(["classify", str(files[0]), *given]) == 0
    assert medvision(["classify", str(files[1]), *given]) == 0
    names = ["x.png", "b/x.png"]
    assert list(table(out / "predictions.csv"))[1:] == names
    page = (out / "index.html").read_text()
    assert all(f"<bdi>{name}</bdi>" in page for name in names) and "set-aside" not in page
    assert not list(out.glob("*.set-aside-*"))
    capsys.readouterr()
    assert medvision(["classify", str(files[1]), str(files[0]), *given]) == 0
    assert capsys.readouterr().out.count("unchanged") == 2, "each has its folder"
    Image.fromarray(picture(9)).save(files[0])
    assert medvision(["classify", str(files[0]), *given]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "what was in x before is of another content, and kept as x.set-aside-1" in said
    assert list(table(out / "predictions.csv"))[1:] == names


def test_pages_and_tables_call_an_image_alike(model: Path, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        Image.fromarray(picture(len(name))).save(tmp_path / "in" / name)
    (tmp_path / "in" / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    out = tmp_path / "out"
    given = ["--model", str(model), "--out", str(out), "--device", "cpu", "--saliency", "none"]
    assert medvision(["classify", str(tmp_path / "in"), *given]) == 1
    names = {"a/x.png", "b/x.png"}
    assert {json.loads(file.read_bytes())["image"]["name"] for file in out.glob("*/result.json")} == names
    for file in out.glob("*/report.html"):
        assert any(f"<title>{name} – image report" in file.read_text() for name in names)
    with (out / "cohort.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["image"] for row in rows} == {row["image_id"] for row in rows} == {*names, "b/broken.png"}
    assert "<bdi>b/broken.png</bdi>" in (out / "index.html").read_text()
    assert set(table(out / "predictions.csv")) == {"image", *names}


def test_a_model_that_is_none_is_told_before_anything_is_written(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, out = tmp_path / "trained", tmp_path / "out"
    empty.mkdir()
    image = str(images / "a.png")
    for command in (["classify", image], ["batch-images", str(images)], ["embed", image]):
        assert medvision([*command, "--model", str(empty), "--out", str(out)]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{empty}: this folder holds no model.safetensors" in said
    assert medvision(["batch-images", str(images), "--model", "camelyon-mini", "--out", str(out)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "camelyon-mini is a model of windows of slides" in said and "`medvision batch`" in said
    given = ["--model", str(model), "--out", str(out), "--saliency-class", "ring"]
    assert medvision(["classify", image, *given]) == 2
    assert not out.exists(), "no ledger of a run that was refused"


def test_what_fails_is_named_once(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(model), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert medvision(["classify", str(images), *given, "--predictions-only"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "failed: broken.png: not an image" in said
    assert "failed: deep.png: grey of more than 8 bits, and no window is given (--image-window" in said
    for number in range(5):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert medvision(["embed", str(tmp_path), *given, "--method", "pca"]) == 1
    assert "failed: broken.png: not an image" in " ".join(capsys.readouterr().err.split())


def test_runs_of_images_are_called_so(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    given = ["--model", str(model), "--out", out, "--device", "cpu", "--saliency", "none"]
    assert medvision(["classify", str(images / "a.png"), *given]) == 0
    capsys.readouterr()
    assert medvision(["runs", "check", out]) == 0
    assert capsys.readouterr().out == "1 run and 1 image: ledger, results and index agree\n"
    assert medvision(["runs", out]) == 0
    listed = capsys.readouterr().out
    assert "images" in listed and "slides" not in listed
    assert medvision(["runs", "show", out]) == 2
    said = capsys.readouterr().err
    assert f"medvision runs show {out} RUN; runs, newest first: 20" in " ".join(said.split())

"""Batches of scans on a real Prefect server, with real networks whose weights are random, on phantoms made here."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medvision.cli import run as medvision
from medvision.core.world import WorldFrame
from medvision.models.nodules import build_nodule_net, usual_contract, write_nodule_model
from medvision.pipelines.ledger_check import check_ledger
from medvision.sources.write_volume import write_dicom_series, write_metaimage, write_nifti
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.pseudonyms import write_key
from medvision.store.records import RunIndex

Results = Callable[[Path], dict[str, bytes]]

pytestmark = [
    pytest.mark.flow,
    pytest.mark.timeout(600),
    # Prefect's server and clients leave sockets and loops to the interpreter's end
    pytest.mark.filterwarnings(
        "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]

FRAME = WorldFrame((-90.0, -75.0, 30.0), (4.0, 2.5, 2.5), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))


def phantom(seed: int) -> np.ndarray:
    """A body with two lungs, in Hounsfield units with noise."""
    shape = (24, 64, 72)
    z, y, x = np.ix_(*((np.arange(n) + 0.5) * s for n, s in zip(shape, FRAME.spacing, strict=True)))
    values = np.full(shape, -1000.0)
    values[np.broadcast_to(((y - 80) / 76) ** 2 + ((x - 90) / 86) ** 2 <= 1, shape)] = 40
    for column in (45.0, 135.0):
        values[((z - 48) / 42) ** 2 + ((y - 80) / 54) ** 2 + ((x - column) / 33) ** 2 <= 1] = -850
    return (values + np.random.default_rng(seed).normal(0, 15, shape)).clip(-1024, 3000).astype(np.int16)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small detector and a small reduction."""
    folder = tmp_path_factory.mktemp("models")
    detector = usual_contract(
        "faster-rcnn-vgg-slim",
        spacing_mm=(4.0, 2.5, 2.5),
        window=(3, 96, 96),
        options={"width": 0.0625, "hidden": 16, "proposals": 8, "most": 4, "score_threshold": 0.0},
    )
    reduction = usual_contract("nodule-cnn3d-slim", options={"width": 0.0625, "hidden": (8, 8)})
    paths = {"detector": folder / "slim.safetensors", "reduction": folder / "fpr.safetensors"}
    for path, contract in zip(paths.values(), (detector, reduction), strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            write_nodule_model(path, build_nodule_net(contract), contract)
    return paths


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with a MetaImage, a series in a folder of its own, one that is no CT, and one that is cut short."""
    folder = tmp_path / "scans"
    (folder / "patient").mkdir(parents=True)
    write_metaimage(folder / "whole.mhd", phantom(1), FRAME)
    write_dicom_series(folder / "patient", phantom(2), FRAME, "1.2.840.7")
    write_nifti(folder / "labels.nii.gz", (phantom(3) > -500).astype(np.uint8), FRAME)
    write_metaimage(folder / "short.mhd", phantom(4), FRAME)
    data = (folder / "short.raw").read_bytes()
    (folder / "short.raw").write_bytes(data[: len(data) // 2])
    return folder


def words_of(scans: Path, out: Path, models: dict[str, Path], *more: str) -> list[str]:
    """The command."""
    named = [part for name, path in models.items() for part in (f"--{name}", str(path))]
    return ["batch-scans", str(scans), "--out", str(out), *named, "--device", "cpu", *more]


def test_good_scans_are_searched_and_bad_ones_fail_by_name(
    prefect_home: Path,
    models: dict[str, Path],
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    results: Results,
) -> None:
    out = tmp_path / "out"
    assert medvision(words_of(scans, out, models)) == 1
    said = capsys.readouterr()
    assert "4 scans, " in said.out and "4 scans: 2 done, 2 failed" in said.out
    assert sorted(re.findall(r"will fail: \S*/(\S+): ", said.err)) == ["labels.nii.gz", "short.mhd"]
    index = RunIndex.model_validate_json((out / "index.json").read_bytes())
    assert index.item == "scan"
    assert {one.name: one.status for one in index.outcomes} == {
        "labels.nii": "failed",
        "patient": "done",
        "short": "failed",
        "whole": "done",
    }
    with Ledger(out / LEDGER, read_only=True) as ledger:
        (run,) = ledger.runs()
        past = {one.slide_id: one for one in ledger.results()}
    assert run.counts == {"done": 2, "failed": 2} and run.start.command.startswith("medvision batch-scans")
    assert run.start.config["detector"] == "slim" and str(tmp_path) not in run.start.command
    assert past["whole"].probability is not None
    assert "lung volume" in {measure.name for measure in past["whole"].quality}
    assert check_ledger(out) == []
    with (out / "cohort.csv").open(newline="") as stream:
        table = {row["scan_id"]: row for row in csv.DictReader(stream)}
    assert table["patient"]["planes"] == "24" and table["short"]["reason"]
    page = (out / "index.html").read_text()
    assert "Run of 4 scans" in page and "Highest score" in page and "findings.geojson" in page

    made = results(out)
    assert medvision(words_of(scans, out, models)) == 1
    assert "4 scans: 2 unchanged, 2 failed" in capsys.readouterr().out
    assert results(out) == made


def test_pseudonyms_and_what_a_manifest_may_not_say(
    prefect_home: Path,
    models: dict[str, Path],
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, out = tmp_path / "cohort.csv", tmp_path / "out"
    (scans / "whole.mhd").rename(scans / "Doe-Jane.mhd")
    manifest.write_text(f"scan,path\nJane Doe,{scans / 'Doe-Jane.mhd'}\n")
    key = write_key(tmp_path / "key")
    assert medvision(words_of(manifest, out, models, "--trust", "--pseudonym-key", str(key))) == 0
    capsys.readouterr()
    (name,) = (path.name for path in out.iterdir() if (path / "result.json").is_file())
    assert re.fullmatch(r"scan-[0-9a-f]{16}", name)
    for path in out.rglob("*"):
        assert not path.is_file() or not re.search(rb"Jane|whole\\.(mhd|raw)", path.read_bytes()), path

    manifest.write_text(f"scan,path,spacing\none,{scans / 'short.mhd'},0.5\n")
    assert medvision(words_of(manifest, tmp_path / "other", models)) == 2
    assert "--volume-spacing" in capsys.readouterr().err

"""Nodules of a phantom with networks that find bright balls: places, sides, sizes, pages, and what is refused.

The networks are real modules with weights files, so that all but their learning is as with any other.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from medvision.cli import run as medvision
from medvision.core.errors import WeightsError
from medvision.core.world import WorldFrame
from medvision.models.nodules import build_nodule_net, usual_contract, write_nodule_model
from medvision.models.nodules.contract import DetectorContract, ReductionContract
from medvision.models.nodules.designs import DETECTORS, REDUCTIONS, NoduleDesign
from medvision.models.nodules.detector import Boxes, NoduleDetector
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.nodules import check_nodule_config, find_each, find_nodules, nodules_command
from medvision.report.render import render_reports
from medvision.sources import Limits
from medvision.sources.write_volume import write_dicom_series, write_metaimage, write_nifti
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.luna16_files import read_candidates
from medvision.store.records import RunIndex
from medvision.store.scan_records import NoduleResult

SPACING = (2.0, 1.5, 1.5)
FRAME = WorldFrame((-90.0, -75.0, 30.0), SPACING, ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
NODULES = {"right": ((60.0, 75.0, 45.0), 8.0), "left": ((66.0, 81.0, 138.0), 14.0)}
"""Centres in mm from the corner (plane, row, column) and diameters by lung."""


class Balls(NoduleDetector):
    """Compact bright parts of a window. Their score is how full their box is."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.4))

    def find(self, window: torch.Tensor) -> Boxes:
        """Boxes of parts of 3 to 14 voxels that the window holds whole."""
        bright = (window[0] > self.level).cpu().numpy()
        labels, _ = ndimage.label(bright)
        boxes, scores = [], []
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            start, stop = np.array([(s.start, s.stop) for s in place]).T
            sides = stop - start
            if sides.min() >= 3 and sides.max() <= 14 and start.min() > 0 and (stop < labels.shape).all():
                boxes.append((start, stop))
                scores.append(float((labels[place] == number).mean()))
        found = torch.tensor(np.array(boxes, np.float32).reshape(-1, 2, 3))
        return Boxes(found, torch.tensor(scores, dtype=torch.float32))


class Bright(nn.Module):
    """A nodule is what is bright in the middle of its cube."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(20.0))

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Logits `(n, 2)`."""
        middle = [side // 2 for side in cubes.shape[2:]]
        core = cubes[:, 0, *(slice(m - 2, m + 2) for m in middle)].mean(dim=(1, 2, 3))
        nodule = self.weight * (core - 0.5)
        return torch.stack([torch.zeros_like(nodule), nodule], dim=1)


def phantom(nodules: bool = True, lungs: bool = True) -> np.ndarray:
    """A body with two lungs, in Hounsfield units, and a nodule in each."""
    shape = (60, 100, 120)
    z, y, x = np.ix_(*((np.arange(n) + 0.5) * s for n, s in zip(shape, SPACING, strict=True)))
    values = np.full(shape, -1000, np.int16)
    values[np.broadcast_to(((y - 75) / 70) ** 2 + ((x - 90) / 85) ** 2 <= 1, shape)] = 40
    if lungs:
        for column in (45.0, 135.0):
            ellipsoid = ((z - 60) / 50) ** 2 + ((y - 75) / 52) ** 2 + ((x - column) / 32) ** 2
            values[ellipsoid <= 1] = -850
    if nodules:
        for (p, r, c), diameter in NODULES.values():
            values[(z - p) ** 2 + (y - r) ** 2 + (x - c) ** 2 <= (diameter / 2) ** 2] = 30
    return values


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Weights of a detector that finds balls, and of a reduction."""
    detector = DetectorContract(
        architecture="test-balls", spacing_mm=(1.5, 1.5, 1.5), window=(48, 64, 64), version="3"
    )
    reduction = ReductionContract(
        architecture="test-bright", spacing_mm=(1, 1, 1), window=(24, 40, 40), crop=(20, 36, 36)
    )
    monkeypatch.setitem(DETECTORS._entries, "test-balls", NoduleDesign(lambda _c: Balls(), detector))
    monkeypatch.setitem(REDUCTIONS._entries, "test-bright", NoduleDesign(lambda _c: Bright(), reduction))
    paths = {"detector": tmp_path / "balls.safetensors", "reduction": tmp_path / "bright.safetensors"}
    for path, contract in zip(paths.values(), (detector, reduction), strict=True):
        write_nodule_model(path, build_nodule_net(contract), contract)
    return paths


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """The phantom as a MetaImage."""
    (tmp_path / "scans").mkdir()
    return write_metaimage(tmp_path / "scans" / "1.2.840.1.mhd", phantom(), FRAME)


def config_of(models: dict[str, Path], **changes: object) -> NoduleConfig:
    return NoduleConfig.model_validate({**models, "device": "cpu", "batch_size": 4, **changes})


def result_of(folder: Path) -> NoduleResult:
    return NoduleResult.model_validate_json((folder / "result.json").read_bytes())


def test_findings_have_their_places_sides_and_sizes(
    models: dict[str, Path], scan: Path, tmp_path: Path, results: Callable[[Path], dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    outcome = find_nodules(scan, out, config_of(models))
    assert (outcome.status, outcome.label, outcome.regions) == ("done", "positive", 2), outcome.reason
    folder = out / outcome.name
    result = result_of(folder)
    assert {one.side for one in result.findings} == {"left", "right"}
    for one in result.findings:
        assert one.side is not None
        centre, diameter = NODULES[one.side]
        world = FRAME.to_world(np.array(centre) / SPACING)
        assert np.abs(np.array(one.world) - world).max() < 1.0
        assert np.abs(np.array(one.voxel) * SPACING - centre).max() < 1.0
        assert one.size_from == "segmentation" and one.diameter_mm == pytest.approx(diameter, abs=1.5)
        assert one.size_band == "8 to below 15 mm" and one.score > 0.9
    assert result.lungs.count == 2 and set(result.lungs.by_side_ml) == {"left", "right"}
    assert result.probability == outcome.probability == result.findings[0].score
    assert [net.role for net in result.models] == ["detector", "reduction"]

    # What other programs read: LUNA16's table and points in millimetres.
    rows = read_candidates(folder / "candidates.csv", ["1.2.840.1"]).scans["1.2.840.1"]
    assert len(rows.values) == result.candidates >= 2
    assert rows.centres[0] == pytest.approx(result.findings[0].world, abs=1e-3)
    features = json.loads((folder / "findings.geojson").read_text())["features"]
    assert [tuple(f["geometry"]["coordinates"]) for f in features] == [f.world for f in result.findings]

    # The same again is kept; another place or order of windows writes the same bytes.
    assert find_nodules(scan, out, config_of(models)).status == "unchanged"
    other = tmp_path / "again"
    find_nodules(scan, other, config_of(models, batch_size=1))
    assert results(other) == results(out)


def test_the_page_names_every_finding_and_loads_nothing(
    models: dict[str, Path], scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    folder = out / find_nodules(scan, out, config_of(models)).name
    page = (folder / "report.html").read_text()
    for words in (
        "RESEARCH USE ONLY",
        "2 findings",
        "finding-2",
        "From the left",
        "8 to below 15 mm",
        "Axial",
    ):
        assert words in page
    assert 'src="http' not in page and 'href="http' not in page and page.count("data:image/jpeg") == 8
    (folder / "report.html").unlink()
    render_reports(folder)
    assert (folder / "report.html").read_text() == page


def test_a_scan_without_nodules_has_no_finding(models: dict[str, Path], tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "clear.nii.gz", phantom(nodules=False), FRAME)
    outcome = find_nodules(scan, tmp_path / "out", config_of(models))
    assert (outcome.status, outcome.label, outcome.regions) == ("done", "negative", 0), outcome.reason
    folder = tmp_path / "out" / outcome.name
    assert (folder / "candidates.csv").read_text() == "seriesuid,coordX,coordY,coordZ,probability\n"
    page = (folder / "report.html").read_text()
    assert "No finding" in page and "does not mean that there is no nodule" in page


def test_without_a_reduction_the_detector_is_the_judge(
    models: dict[str, Path], scan: Path, tmp_path: Path
) -> None:
    models.pop("reduction")
    out = tmp_path / "out"
    outcome = find_nodules(scan, out, config_of(models, threshold=0.2))
    result = result_of(out / outcome.name)
    assert [one.score for one in result.findings] == [one.detector_score for one in result.findings]
    assert any("No reduction" in limit for limit in result.limits)


def test_a_scan_without_lungs_is_rejected_unless_it_is_to_be_searched(
    models: dict[str, Path], tmp_path: Path
) -> None:
    scan = write_metaimage(tmp_path / "head.mhd", phantom(lungs=False), FRAME)
    outcome = find_nodules(scan, tmp_path / "out", config_of(models))
    assert outcome.status == "QC rejected" and not outcome.ok and "no lungs" in outcome.reason
    assert "Rejected by quality control" in (tmp_path / "out" / outcome.name / "report.html").read_text()
    thin = write_metaimage(tmp_path / "thin.mhd", phantom(lungs=False)[:4], FRAME)
    flat = find_nodules(thin, tmp_path / "out", config_of(models))
    page = (tmp_path / "out" / flat.name / "report.html").read_text()
    assert flat.status == "QC rejected" and "From the front" not in page, (
        "a few planes show nothing from the side"
    )
    crop = write_metaimage(tmp_path / "crop.mhd", phantom()[18:45, 30:75, 60:120], FRAME)
    kept = find_nodules(crop, tmp_path / "out", config_of(models, without_lungs=True))
    assert kept.status == "done" and kept.regions == 1, kept
    found = result_of(tmp_path / "out" / kept.name)
    assert found.findings[0].side is None and "No lungs were found" in " ".join(found.limits)


def test_a_series_is_read_by_its_folder_and_in_a_guarded_process(
    models: dict[str, Path], tmp_path: Path
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    write_dicom_series(series, phantom(), FRAME, "1.2.840.2")
    here = find_nodules(series, tmp_path / "here", config_of(models))
    there = find_nodules(
        series, tmp_path / "there", config_of(models), limits=Limits(memory_bytes=2 * 10**9, seconds=60)
    )
    assert here.status == there.status == "done", there.reason
    first, second = (result_of(tmp_path / where / "series") for where in ("here", "there"))
    assert len(first.findings) == 2
    assert first == second

    sorted(series.iterdir())[20].unlink()
    gap = find_nodules(series, tmp_path / "here", config_of(models), name="gap")
    assert gap.status == "failed" and "missing slices" in gap.reason


def test_what_is_no_ct_is_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    bright = np.clip(phantom(), 0, None).astype(np.uint8)
    outcome = find_nodules(
        write_nifti(tmp_path / "mr.nii", bright, FRAME), tmp_path / "out", config_of(models)
    )
    assert outcome.status == "failed" and "Hounsfield units" in outcome.reason and "mr.nii" in outcome.reason
    (tmp_path / "text.mhd").write_text("no scan")
    outcome = find_nodules(tmp_path / "text.mhd", tmp_path / "out", config_of(models))
    assert outcome.status == "failed" and "text.mhd" in outcome.reason
    outcome = find_nodules(tmp_path / "absent.nii", tmp_path / "out", config_of(models))
    assert outcome.status == "failed" and "no such file" in outcome.reason


def test_weights_of_another_kind_are_refused_before_any_scan(models: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="nodule-fpr"):
        check_nodule_config(config_of({**models, "detector": models["reduction"]}))
    with pytest.raises(WeightsError, match="no such weights file"):
        check_nodule_config(config_of({**models, "reduction": Path("absent.safetensors")}))


def test_the_alias_stands_for_the_name_everywhere(
    models: dict[str, Path], scan: Path, tmp_path: Path
) -> None:
    secret = scan.rename(scan.with_name("Jane-Doe.mhd"))
    out = tmp_path / "out"
    outcome = find_nodules(secret, out, config_of(models), name="scan-1", alias="scan-1")
    assert outcome.status == "done", outcome.reason
    for path in (out / "scan-1").rglob("*"):
        assert not path.is_file() or b"Jane" not in path.read_bytes(), path
    assert "scan-1," in (out / "scan-1" / "candidates.csv").read_text()


def test_the_alias_stands_for_the_files_of_a_scan_that_failed(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    files = write_dicom_series(folder, phantom(), FRAME, "1.2.840.3")
    data = files[7].read_bytes()
    files[7].unlink()
    (folder / "Jane Doe 007.dcm").write_bytes(data[:300])
    said = find_nodules(folder, tmp_path / "out", config_of(models), name="scan-1", alias="scan-1")
    assert said.status == "failed" and "Jane" not in said.model_dump_json(), said.reason
    header = write_metaimage(tmp_path / "one.mhd", phantom(), FRAME)
    header.write_text(header.read_text().replace("one.raw", "Jane Doe.raw"))
    said = find_nodules(header, tmp_path / "out", config_of(models), name="scan-2", alias="scan-2")
    assert said.status == "failed" and "Jane" not in said.model_dump_json(), said.reason
    assert "is not there" in said.reason


def test_the_command_says_what_was_found_and_keeps_a_ledger(
    models: dict[str, Path], scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "scans" / "bad.mhd"
    bad.write_text("no scan")
    out = tmp_path / "out"
    words = ["nodules", str(scan), str(bad), "--out", str(out), "--device", "cpu", "--threshold", "0.6"]
    words += ["--detector", str(models["detector"]), "--reduction", str(models["reduction"])]
    assert medvision(words) == 1
    said = capsys.readouterr().out
    assert "(positive), 2 findings" in said and "failed" in said
    index = RunIndex.model_validate_json((out / "index.json").read_bytes())
    assert index.item == "scan" and [one.status for one in index.outcomes] == ["done", "failed"]
    page = (out / "index.html").read_text()
    assert "Run of 2 scans" in page and "Highest score" in page
    with (out / "cohort.csv").open(newline="") as stream:
        rows = {row["scan_id"]: row for row in csv.DictReader(stream)}
    assert rows["1.2.840.1.mhd"]["findings"] == "2" and rows["bad.mhd"]["verdict"] == "failed"
    with Ledger(out / LEDGER, read_only=True) as ledger:
        (run,) = ledger.runs()
    assert run.start.config["detector"] == "balls" and run.start.command == nodules_command(
        config_of(models, threshold=0.6)
    ).replace(" --batch-size=4", "")
    assert medvision(words[:2] + words[3:]) == 0, "the good one alone"


def test_no_scan_and_no_model_end_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.safetensors"
    assert medvision(["nodules", "scan.mhd", "--detector", str(absent), "--out", str(tmp_path / "o")]) != 0
    assert "no such weights file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert usual_contract("nodule-cnn3d-slim").kind == "nodule-fpr"


def test_scans_of_one_name_are_kept_apart_from_run_to_run(models: dict[str, Path], tmp_path: Path) -> None:
    out, paths = tmp_path / "out", []
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        paths.append(write_metaimage(tmp_path / place / "1.2.mhd", phantom(), FRAME))
    (one,) = find_each(paths[:1], out, config_of(models))
    paths[1].with_suffix(".raw").write_bytes(b"short")  # another scan, and a bad one
    (two,) = find_each(paths[1:], out, config_of(models))
    assert (one.status, one.name, one.called) == ("done", "1.2", "1.2.mhd")
    assert two.status == "failed" and two.name != one.name and two.called == "second/1.2.mhd"
    write_metaimage(paths[1], phantom() + 5, FRAME)
    again = list(find_each(paths, out, config_of(models)))
    assert [outcome.status for outcome in again] == ["unchanged", "done"] and not list(
        out.glob("*.set-aside*")
    )
    assert result_of(out / two.name).scan.name == "second/1.2.mhd"
    assert (out / two.name / "candidates.csv").read_text().splitlines()[1].startswith("1.2,")

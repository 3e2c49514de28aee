"""Nodules of a phantom with networks that find bright balls: places, sides, sizes, pages, and what is refused.

The networks are real modules with weights files, so that all but their learning is as with any other.
"""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
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


def test_a_finding_at_the_very_edge_of_a_scan_is_one_like_any_other(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 planes of 2 mm are 15 of the detector's, of which the last one ends half a millimetre above the scan."""

    def everywhere(_self: Balls, window: torch.Tensor) -> Boxes:
        middles = torch.arange(0.1, window.shape[1], 0.2)
        centres = torch.stack([middles, *(torch.full_like(middles, n / 2) for n in window.shape[2:])], dim=1)
        return Boxes(torch.stack([centres - 0.05, centres + 0.05], dim=1), torch.full_like(middles, 0.9))

    monkeypatch.setattr(Balls, "find", everywhere)
    crop = write_metaimage(tmp_path / "crop.mhd", phantom()[40:51, 20:60, 20:60], FRAME)
    config = config_of({"detector": models["detector"]}, without_lungs=True, pictured=100)
    outcome = find_nodules(crop, tmp_path / "out", config)
    assert outcome.status == "done", outcome.reason
    planes = [one.voxel[0] for one in result_of(tmp_path / "out" / outcome.name).findings]
    assert max(planes) == 11 and min(planes) < 0.2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused_with_their_place(
    value: float, models: dict[str, Path], tmp_path: Path
) -> None:
    voxels = phantom().astype(np.float32)
    voxels[20:24, 51:55, 60:64] = value
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-1.5, -1.5, 2.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "odd.nii")
    outcome = find_nodules(tmp_path / "odd.nii", tmp_path / "out", config_of(models))
    assert outcome.status == "failed" and "odd.nii: holds voxels that are no numbers" in outcome.reason
    assert "plane, row, column 20, 51, 60" in outcome.reason and "unexpected" not in outcome.reason


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
    words = ["nodules", "scan.mhd", "--detector", str(absent), "--out", str(tmp_path / "o")]
    assert medvision([*words, "--turns", "5"]) != 0
    assert "--turns 5" in capsys.readouterr().err
    assert medvision([*words, "--turns", "4"]) != 0
    assert "no such weights file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert usual_contract("nodule-cnn3d-slim").kind == "nodule-fpr"


@pytest.mark.parametrize("killed", ["among the windows", "among the cubes"])
def test_a_search_that_was_killed_goes_on_where_it_was(
    models: dict[str, Path],
    scan: Path,
    tmp_path: Path,
    results: Callable[[Path], dict[str, bytes]],
    killed: str,
) -> None:
    config = config_of(models, batch_size=1, checkpoint_seconds=1e-6)
    planned: list[int] = []
    done = 0

    def on_windows(count: int) -> None:
        nonlocal done
        done += count
        at = planned[0] // 2 if killed == "among the windows" else planned[0] + 1
        if count and done == at:  # what lies on the disk now is what a killed process would leave
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    def on_plan(_name: str, windows: int) -> None:
        planned.append(windows)

    whole = find_nodules(scan, tmp_path / "whole", config, on_plan=on_plan, on_windows=on_windows)
    assert whole.status == "done" and planned[0] >= 4, whole.reason
    assert not list((tmp_path / "whole" / ".medvision" / "scratch").iterdir())

    again: list[int] = []
    outcome = find_nodules(scan, tmp_path / "killed", config, on_windows=again.append)
    assert outcome.status == "resumed" and outcome.ok, outcome.reason
    assert again[0] == (planned[0] // 2 if killed == "among the windows" else planned[0])
    assert killed != "among the cubes" or again[1] == 1, "one cube was judged before"
    assert sum(again) == done
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed" / ".medvision" / "scratch").iterdir())


def test_progress_of_other_weights_is_not_gone_on_with(
    models: dict[str, Path], scan: Path, tmp_path: Path
) -> None:
    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    out, config = tmp_path / "out", config_of(models, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        find_nodules(scan, out, config, on_windows=stop)
    (saved,) = (out / ".medvision" / "scratch").glob("*/windows.npz")
    assert saved.stat().st_size
    assert find_nodules(scan, out, config_of(models, batch_size=2)).status == "done", "other batches"
    with pytest.raises(KeyboardInterrupt):
        find_nodules(scan, tmp_path / "other", config, on_windows=stop)
    assert (
        find_nodules(scan, tmp_path / "other", config_of(models, batch_size=1, threshold=0.6)).status
        == "done"
    )
    assert not list((tmp_path / "other" / ".medvision" / "scratch").iterdir())


def series_of(tmp_path: Path, voxels: np.ndarray, frame: WorldFrame = FRAME, **study: str) -> Path:
    """A DICOM series of a patient, in files whose names say nothing of their order."""
    folder = tmp_path / "series"
    told = {
        "PatientName": "Müller^Jörg",
        "PatientID": "4711",
        "PatientSex": "O",
        "AccessionNumber": "A1",
        **study,
    }
    for path in write_dicom_series(folder, voxels, frame, "1.2.840.5"):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 100"
        for name, value in told.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    return folder


def test_a_structured_report_holds_the_findings_in_the_study_of_the_series(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Read back by highdicom: whose it is, what it refers to, places by its own mapping of images to the patient."""
    hd = pytest.importorskip("highdicom.sr", reason="highdicom is not installed", exc_type=ImportError)
    from highdicom.spatial import ImageToReferenceTransformer

    series = series_of(tmp_path, phantom())
    out = tmp_path / "out"
    outcome = find_nodules(series, out, config_of(models))
    assert outcome.status == "done", outcome.reason
    result = result_of(out / "series")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of highdicom, about what its reader does not know
        report = hd.srread(out / "series" / "findings.dcm")
    images = {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, series.iterdir())}
    one = next(iter(images.values()))
    for name in ("StudyInstanceUID", "StudyDate", "PatientID", "PatientSex", "AccessionNumber"):
        assert report[name].value == one[name].value, name
    assert str(report.PatientName) == "Müller^Jörg" and report.Modality == "SR"
    assert report.SeriesInstanceUID != one.SeriesInstanceUID
    assert (report.PreliminaryFlag, report.VerificationFlag, report.ContentQualification) == (
        "PRELIMINARY", "UNVERIFIED", "RESEARCH",
    )  # fmt: skip
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (referred,) = study.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == "1.2.840.5"
    assert {item.ReferencedSOPInstanceUID for item in referred.ReferencedSOPSequence} == set(images)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"

    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(result.findings) == 2
    for group, finding in zip(groups, result.findings, strict=True):
        assert group.finding_type.meaning == "Nodule" and group.tracking_identifier == f"Finding {finding.id}"
        (site,) = group.finding_sites
        assert (site.value.meaning, site.laterality.meaning.lower()) == ("Lung", finding.side)
        told = {one.name.meaning: (one.value, one.unit.value) for one in group.get_measurements()}
        assert told == {
            "Diameter": (finding.diameter_mm, "mm"),
            "Long axis": (finding.long_mm, "mm"),
            "Short axis": (finding.short_mm, "mm"),
            "Volume": (finding.volume_mm3, "mm3"),
            "Attenuation Coefficient": (finding.mean_hu, "[hnsf'U]"),
            "Certainty of Finding": (pytest.approx(100 * finding.score, abs=1e-3), "%"),
        }
        widest, heights = 0.0, []
        for region in group.roi:
            shown = images[region.ContentSequence[0].referenced_sop_instance_uid]
            to_patient = ImageToReferenceTransformer(
                image_position=shown.ImagePositionPatient,
                image_orientation=shown.ImageOrientationPatient,
                pixel_spacing=shown.PixelSpacing,
            )
            middle, edge = to_patient(np.asarray(region.value))
            assert region.graphic_type.value == "CIRCLE" and middle[:2] == pytest.approx(
                finding.world[:2], abs=1e-3
            )
            widest = max(widest, 2 * float(np.linalg.norm(edge - middle)))
            heights.append(float(middle[2]))
        assert np.mean(heights) == pytest.approx(finding.world[2], abs=SPACING[0] / 2)
        assert 0.9 * finding.diameter_mm < widest <= finding.diameter_mm + 1e-3
        assert abs(max(heights) - min(heights) + SPACING[0] - finding.diameter_mm) <= SPACING[0]
    assert "findings.dcm" in (out / "series" / "report.html").read_text()
    assert find_nodules(series, out, config_of(models)).status == "unchanged"
    assert find_nodules(series, out, config_of(models, dicom_sr=False)).status == "done"
    assert not (out / "series" / "findings.dcm").exists()


def test_a_structured_report_without_a_finding_says_that_all_ran(
    models: dict[str, Path], tmp_path: Path
) -> None:
    hd = pytest.importorskip("highdicom.sr", reason="highdicom is not installed", exc_type=ImportError)
    odd = {"PatientSex": "", "StudyTime": "", "PatientBirthDate": "", "PatientName": ""}
    find_nodules(series_of(tmp_path, phantom(nodules=False), **odd), tmp_path / "out", config_of(models))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = hd.srread(tmp_path / "out" / "series" / "findings.dcm")
    assert not report.content.get_volumetric_roi_measurement_groups()
    (group,) = report.content.get_image_measurement_groups()
    (said,) = group.get_qualitative_evaluations()
    assert said.value.meaning == "All algorithms succeeded; without findings" and report.PatientName == ""


def test_who_a_scan_is_of_is_only_written_where_it_may_be(models: dict[str, Path], tmp_path: Path) -> None:
    """No report under a pseudonym, from another process, or at another spacing."""
    series = series_of(tmp_path, phantom())
    limits = Limits(memory_bytes=2 * 10**9, seconds=60)
    for name, changes, config in (
        ("alias", {"alias": "alias"}, {}),
        ("guarded", {"limits": limits}, {}),
        ("spaced", {}, {"volume_spacing": (2.0, 1.5, 1.5)}),
    ):
        outcome = find_nodules(series, tmp_path / "out", config_of(models, **config), name=name, **changes)
        assert outcome.status == "done", outcome.reason
        for path in (tmp_path / "out" / name).iterdir():
            data = path.read_bytes()
            assert path.name != "findings.dcm" and b"4711" not in data and "Müller".encode() not in data, path


def test_why_there_is_no_structured_report_is_said_on_the_page(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, out = series_of(tmp_path, phantom()[15:45]), tmp_path / "out"
    config = config_of(models, without_lungs=True)
    with monkeypatch.context() as absent:
        absent.setattr("medvision.pipelines.nodules.can_write_sr", lambda: False)
        assert find_nodules(series, out, config, name="without").status == "done"
    (warning,) = json.loads((out / "without" / "run.json").read_text())["warnings"]
    assert "pip install 'medvision[dicom]'" in warning
    assert "highdicom" in (out / "without" / "report.html").read_text()
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.StudyInstanceUID
        dataset.save_as(path)
    assert find_nodules(series, out, config, name="nowhere").status == "done"
    (warning,) = json.loads((out / "nowhere" / "run.json").read_text())["warnings"]
    assert "StudyInstanceUID" in warning


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

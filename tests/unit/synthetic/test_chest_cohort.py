"""A cohort of synthetic scans on disk: LUNA16's tables, formats that readers open, continued where it broke off."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.sources.volume import open_volume
from medvision.sources.write_volume import write_dicom_series, write_metaimage, write_nifti
from medvision.synthetic.chest import (
    ChestCohort,
    ChestScan,
    draw_scan,
    plan_cohort,
    write_chest_cohort,
    write_scan,
)
from medvision.synthetic.chest.scan import Format

TINY = ChestCohort(scans=2, seed=3, size="small", nodules=(1, 2), folds=2, spacing_mm=(3.0, 2.4))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chest")
    write_chest_cohort(TINY, folder, 1)
    return folder


@pytest.fixture(scope="module")
def scan() -> ChestScan:
    return draw_scan(replace(plan_cohort(TINY)[0].recipe, orientation="RAS", padded=True))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    source = open_volume(path)
    values = source.read(Box((0, 0, 0), source.levels[0].shape))[..., 0]
    assert source.frame is not None
    places = source.frame.to_world(np.array([[0.5, 0.5, 0.5], [3.5, 2.5, 7.5]]))
    source.close()
    return values, places


def test_the_tables_are_those_of_luna16(cohort: Path) -> None:
    uids = (cohort / "seriesuids.csv").read_text().split()
    assert len(uids) == 2
    assert [(r["seriesuid"], r["fold"]) for r in table(cohort / "folds.csv")] == [
        (uids[0], "subset0"),
        (uids[1], "subset1"),
    ]
    head = (cohort / "annotations.csv").read_text().splitlines()[0]
    assert head == "seriesuid,coordX,coordY,coordZ,diameter_mm"
    assert (cohort / "annotations_excluded.csv").read_text().splitlines()[0] == head
    nodules = table(cohort / "annotations.csv")
    assert {r["seriesuid"] for r in nodules} == set(uids)
    assert all(2.9 < float(r["diameter_mm"]) < 31 for r in nodules)
    excluded = table(cohort / "annotations_excluded.csv")
    assert all(float(r["diameter_mm"]) == -1 or float(r["diameter_mm"]) > 0 for r in excluded)
    details = table(cohort / "findings.csv")
    assert len(details) == len(nodules) + len(excluded)
    assert {r["what"] for r in details} > {"nodule"}


def test_the_table_points_into_the_mask_of_the_file(cohort: Path) -> None:
    for row in table(cohort / "findings.csv"):
        if row["what"] != "nodule":
            continue
        source = open_volume(cohort / "masks" / "nodules" / f"{row['seriesuid']}.mhd")
        assert source.frame is not None
        at = source.frame.to_voxels([float(row[f"coord{axis}"]) for axis in "XYZ"]).astype(int)
        value = source.read(Box.at(tuple(int(v) for v in at), (1, 1, 1)))
        assert int(value.flat[0]) == int(row["label"])
        source.close()


def test_a_cohort_is_continued_and_several_processes_write_the_same_bytes(
    cohort: Path, tmp_path: Path
) -> None:
    before = {p.relative_to(cohort): p.read_bytes() for p in sorted(cohort.rglob("*")) if p.is_file()}
    seen: list[tuple[str, int, int]] = []
    planned = write_chest_cohort(TINY, cohort, 1, lambda one, done, of: seen.append((one.uid, done, of)))
    assert seen == []
    (cohort / planned[1].subset / f"{planned[1].uid}.raw").unlink()
    write_chest_cohort(TINY, cohort, 1, lambda one, done, of: seen.append((one.uid, done, of)))
    assert seen == [(planned[1].uid, 2, 2)]
    assert {p.relative_to(cohort): p.read_bytes() for p in sorted(cohort.rglob("*")) if p.is_file()} == before
    write_chest_cohort(TINY, tmp_path, 2)
    assert {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_larger_cohort_begins_with_the_smaller_one() -> None:
    assert [p.uid for p in plan_cohort(replace(TINY, scans=5))[:2]] == [p.uid for p in plan_cohort(TINY)]


@pytest.mark.parametrize("form", ["mhd", "zraw", "nifti", "dicom"])
def test_every_format_reads_back_as_it_was(scan: ChestScan, tmp_path: Path, form: Format) -> None:
    written = write_scan(scan, tmp_path, "scan", form)
    values, places = voxels(written)
    # Readers stand the volume up; the file says RAS, so rows and columns are turned about.
    upright = np.flip(scan.hu, (1, 2))
    expected = np.where(upright == -3024, values, upright) if form == "dicom" else upright
    assert np.array_equal(values, expected)
    first = scan.frame.to_world(np.array([0.5, scan.hu.shape[1] - 0.5, scan.hu.shape[2] - 0.5]))
    assert places[0] == pytest.approx(first, abs=1e-3)
    first_bytes = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    write_scan(scan, tmp_path, "scan", form)
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first_bytes


def test_the_dicom_series_is_ct_and_its_names_say_nothing(scan: ChestScan, tmp_path: Path) -> None:
    import pydicom

    paths = write_dicom_series(tmp_path, scan.hu, scan.frame, scan.recipe.series_uid)
    assert len(paths) == scan.hu.shape[0]
    assert paths != sorted(paths)
    one = pydicom.dcmread(paths[5])
    assert one.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert one.SeriesInstanceUID == scan.recipe.series_uid
    assert len({pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in paths}) == len(paths)
    assert one.ImageOrientationPatient == [-1, 0, 0, 0, -1, 0]
    x, y, z = scan.frame.to_world([5.5, 0.5, 0.5])
    assert one.ImagePositionPatient == pytest.approx([x, y, z], abs=1e-6)
    assert np.array_equal(one.pixel_array.astype(int) - 1024, scan.hu[5])


def test_nifti_says_ras(scan: ChestScan, tmp_path: Path) -> None:
    import nibabel

    image = nibabel.load(write_nifti(tmp_path / "scan.nii.gz", scan.hu, scan.frame))
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    x, y, z = scan.frame.to_world([0.5, 0.5, 0.5])
    assert image.affine[:3, 3] == pytest.approx([-x, -y, z], abs=1e-3)


def test_writers_refuse_what_they_cannot_write(scan: ChestScan, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.mhd"):
        write_metaimage(tmp_path / "scan.nrrd", scan.hu, scan.frame)
    with pytest.raises(UsageError, match=r"ends in \.nii"):
        write_nifti(tmp_path / "scan.img", scan.hu, scan.frame)
    with pytest.raises(UsageError, match="int16 or uint8, not float64"):
        write_metaimage(tmp_path / "scan.mhd", scan.hu.astype(float), scan.frame)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="as int16"):
        write_dicom_series(tmp_path, scan.lungs, scan.frame, "2.25.1")  # type: ignore[arg-type]


def test_the_command_writes_scans_and_says_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "small", "--spacing", "4", "3", "--nodules", "1", "1", "--workers", "1"]
    assert run(["synthesize", "chest", "--out", str(tmp_path / "a"), *arguments]) == 0
    said = capfd.readouterr().out
    assert "1 scans, 1 nodules" in said
    assert len(json.loads((tmp_path / "a" / "recipes.json").read_text())) == 1
    assert len(list((tmp_path / "a").glob("subset0/*.mhd"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scans", "0"], "0 scans"),
        (["--dose", "0"], "dose 0"),
        (["--nodules", "5", "1"], "from 5 to 1 nodules"),
        (["--spacing", "0", "1"], "spacing 0"),
    ],
)
def test_the_command_refuses_before_drawing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["synthesize", "chest", "--out", str(tmp_path / "a"), *arguments]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "a").exists()

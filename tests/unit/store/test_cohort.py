"""The manifest of a cohort: what it gives, and each way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvision.core.errors import UsageError
from medvision.store.cohort import CohortSlide, read_cohort, write_cohort


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slides").mkdir()
    for name in ("a.tif", "b.tif", "c.tif", "a.xml"):
        (tmp_path / "slides" / name).write_bytes(b"")
    return tmp_path


def manifest(folder: Path, text: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text(text)
    return path


def test_it_round_trips(folder: Path) -> None:
    slides = [
        CohortSlide(
            "a", folder / "slides" / "a.tif", "tumor", "p1", "train", folder / "slides" / "a.xml", 0.25
        ),
        CohortSlide('b, "second"', folder / "slides" / "b.tif"),
    ]
    path = write_cohort(folder / "cohort.csv", slides)
    assert read_cohort(path).slides == tuple(slides)
    assert "slides/a.tif" in path.read_text()


def test_two_columns_are_enough_and_order_is_free(folder: Path) -> None:
    found = read_cohort(manifest(folder, "path , slide_id\nslides/a.tif, a\n\nslides/b.tif,b\n"))
    assert [s.slide_id for s in found.slides] == ["a", "b"]
    assert found.slides[0] == CohortSlide("a", folder / "slides/a.tif")


def test_splits_are_given_and_unknown_ones_named(folder: Path) -> None:
    text = "slide_id,path,split\na,slides/a.tif,train\nb,slides/b.tif,test\nc,slides/c.tif,train\n"
    found = read_cohort(manifest(folder, text))
    assert [s.slide_id for s in found.of("train")] == ["a", "c"]
    with pytest.raises(UsageError, match="no slide is in split 'tset'; splits: test, train"):
        found.of("tset")


def test_patients_must_lie_in_one_split(folder: Path) -> None:
    head = "slide_id,path,patient,split\n"
    good = read_cohort(manifest(folder, head + "a,slides/a.tif,p,train\nb,slides/b.tif,q,test\n"))
    assert good.check_disjoint() == "patients in more than one split: 0"
    unnamed = read_cohort(manifest(folder, head + "a,slides/a.tif,,train\nb,slides/b.tif,,test\n"))
    assert unnamed.check_disjoint() == "patients in more than one split: 0"
    torn = read_cohort(manifest(folder, head + "a,slides/a.tif,p,train\nb,slides/b.tif,p,test\n"))
    with pytest.raises(UsageError, match=r"patient 'p' lies in more than one split \(test, train\)"):
        torn.check_disjoint()
    same = read_cohort(manifest(folder, head + "a,slides/a.tif,p,train\nb,slides/a.tif,q,test\n"))
    with pytest.raises(UsageError, match=r"file .*a\.tif' lies in more than one split"):
        same.check_disjoint()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,label\na,normal\n", "no column 'path'; columns: slide_id, path"),
        ("slide_id,path,labell\na,slides/a.tif,x\n", "unknown column 'labell'"),
        ("slide_id,path,path\na,slides/a.tif,x\n", "twice the column 'path'"),
        ("slide_id,path\n", "lists no slide"),
        ("slide_id,path\na,slides/z.tif\n", "line 2, slide 'a': no such file 'slides/z.tif'"),
        ("slide_id,path\n,slides/a.tif\n", "line 2: slide_id is empty"),
        ("slide_id,path\na,slides/a.tif\nA,slides/b.tif\n", r"'A' for the second time \(as 'a'\)"),
        ("slide_id,path,spacing\na,slides/a.tif,-1\n", "spacing '-1' is no positive number"),
        ("slide_id,path,spacing\na,slides/a.tif,fine\n", "spacing 'fine' is no positive number"),
        ("slide_id,path,annotation\na,slides/a.tif,slides/z.xml\n", "no such file 'slides/z.xml'"),
        ("slide_id,path\na,slides/a.tif,more\n", "line 2: has more or fewer cells"),
        ("slide_id,path\na\0b,slides/a.tif\n", r"line 2: slide_id 'a\\x00b' has a NUL"),
        ("slide_id,path,label\na,slides/a.tif\n", "line 2: has more or fewer cells"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_cohort(manifest(folder, text))


def test_an_absent_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.csv: cannot be read"):
        read_cohort(tmp_path / "absent.csv")

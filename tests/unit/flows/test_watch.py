"""Watched folders: what counts as a whole slide, and what is remembered. Looks are told the time: no clock runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.watch import (
    Memory,
    Sent,
    Watcher,
    control_folder,
    files_to_take,
    one_of_each_series,
    read_memory,
    write_manifest,
    write_memory,
)
from medvision.core.errors import StoreError
from medvision.pipelines.batch_plan import slide_ids
from medvision.pipelines.work import IMAGES
from medvision.pipelines.work import SLIDE_PATTERNS as PATTERNS
from medvision.store.cohort import read_cohort


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.fixture
def watcher(folder: Path) -> Watcher:
    return Watcher(folder, PATTERNS, 10, folder / "results")


def keys(watcher: Watcher, now: float, taken: dict[str, str] | None = None) -> list[str]:
    return [arrival.key for arrival in watcher.look(now, taken or {})]


def test_a_growing_slide_is_taken_once_it_has_stayed_the_same(folder: Path, watcher: Watcher) -> None:
    slide = folder / "a.svs"
    slide.write_bytes(b"1")
    assert keys(watcher, 0) == []
    slide.write_bytes(b"12")
    assert keys(watcher, 20) == [], "it grew since the first look"
    assert keys(watcher, 29) == []
    [arrival] = watcher.look(30, {})
    assert arrival.slides == (slide,)
    assert keys(watcher, 40, {"a.svs": arrival.digest}) == []


def test_one_look_is_never_enough(folder: Path, watcher: Watcher) -> None:
    (folder / "a.svs").write_bytes(b"1")
    assert keys(watcher, 1e9) == []
    assert keys(watcher, 2e9) == ["a.svs"]


def test_a_slide_that_was_replaced_is_a_new_one(folder: Path, watcher: Watcher) -> None:
    slide = folder / "a.svs"
    slide.write_bytes(b"1")
    watcher.look(0, {})
    [arrival] = watcher.look(10, {})
    taken = {"a.svs": arrival.digest}
    os.utime(slide, ns=(0, 5_000_000_000))
    assert keys(watcher, 20, taken) == []
    assert keys(watcher, 30, taken) == ["a.svs"]


def test_a_slide_that_is_touched_without_growing_is_not_yet_whole(folder: Path, watcher: Watcher) -> None:
    """Some copies give the file its full size at once, and its time at the end."""
    slide = folder / "a.svs"
    slide.write_bytes(bytes(100))
    watcher.look(0, {})
    slide.write_bytes(b"x" * 100)
    os.utime(slide, ns=(7, 7))
    assert keys(watcher, 10) == []
    assert keys(watcher, 20) == ["a.svs"]


@pytest.mark.parametrize(
    "name",
    ["a.svs.part", "a.svs.tmp", "a.svs~", ".a.svs", "~a.svs", "a.svs.crdownload", "a.txt", ".hidden/a.svs"],
)
def test_temporary_hidden_and_foreign_names_are_left(folder: Path, watcher: Watcher, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"1")
    watcher.look(0, {})
    assert keys(watcher, 10) == []


def test_links_empty_files_and_the_results_are_left(folder: Path, watcher: Watcher, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.svs").write_bytes(b"1")
    (folder / "link.svs").symlink_to(tmp_path / "elsewhere" / "secret.svs")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "empty.svs").touch()
    (folder / "results").mkdir()
    (folder / "results" / "heatmap.ome.tiff").write_bytes(b"1")
    os.mkfifo(folder / "pipe.svs")
    watcher.look(0, {})
    assert keys(watcher, 10) == []


def test_endings_are_the_same_in_any_case_and_folders_are_entered(folder: Path, watcher: Watcher) -> None:
    (folder / "day 1").mkdir()
    (folder / "day 1" / "A.SVS").write_bytes(b"1")
    watcher.look(0, {})
    assert keys(watcher, 10) == ["day 1/A.SVS"]


def test_mrxs_waits_for_all_of_its_folder(folder: Path, watcher: Watcher) -> None:
    (folder / "a.mrxs").write_bytes(b"1")
    watcher.look(0, {})
    assert keys(watcher, 10) == [], "its folder is not there"
    (folder / "a").mkdir()
    (folder / "a" / "Data0000.dat").write_bytes(b"1")
    watcher.look(20, {})
    (folder / "a" / "Data0001.dat").write_bytes(b"1")
    assert keys(watcher, 30) == [], "a file came"
    (folder / "a" / "Data0002.dat.part").write_bytes(b"1")
    assert keys(watcher, 50) == [], "a file is on its way"
    (folder / "a" / "Data0002.dat.part").rename(folder / "a" / "Data0002.dat")
    watcher.look(60, {})
    assert keys(watcher, 70) == ["a.mrxs"]


def test_a_folder_of_dicom_is_one_set(folder: Path, watcher: Watcher) -> None:
    series = folder / "study"
    series.mkdir()
    for number in range(3):
        (series / f"{number}.dcm").write_bytes(b"1")
    watcher.look(0, {})
    (series / "1.dcm").write_bytes(b"12")
    assert keys(watcher, 10) == [], "one instance still grew"
    [arrival] = watcher.look(20, {})
    assert arrival.key == "study"
    assert len(arrival.slides) == 3


def test_of_each_dicom_series_one_instance_stands_for_the_slide(tmp_path: Path) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    series = [generate_uid(entropy_srcs=[str(number)]) for number in range(2)]
    paths = []
    for number in range(5):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        made.SeriesInstanceUID = series[number % 2]
        paths.append(tmp_path / f"{number}.dcm")
        made.save_as(paths[-1], enforce_file_format=False)
    assert one_of_each_series(paths) == [paths[0], paths[1]]


def test_the_watched_folder_must_be_there_but_not_all_below_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watcher(tmp_path / "gone", PATTERNS, 1, tmp_path).look(0, {})


def test_a_manifest_lists_just_the_new_slides_and_is_named_by_the_time(
    folder: Path, watcher: Watcher, tmp_path: Path
) -> None:
    (folder / "b").mkdir()
    for name in ("Doe^Jane.svs", "b/x.svs", "x.svs", "x.tif"):
        (folder / name).write_bytes(b"1")
    watcher.look(0, {})
    slides = files_to_take(watcher.look(10, {}))
    control = control_folder(tmp_path / "out", "arrivals")
    control.mkdir(parents=True)
    first, second = (write_manifest(control, folder, slides) for _ in range(2))
    assert first != second
    assert not set("DoeJane") <= set(first.name)
    listed = read_cohort(first).slides
    assert [slide.path for slide in listed] == slides
    assert sorted(slide.slide_id for slide in listed) == ["Doe^Jane", "b__x", "x-svs", "x-tif"]


def test_each_file_is_an_image_by_itself(folder: Path, tmp_path: Path) -> None:
    watcher = Watcher(folder, IMAGES.patterns, 10, tmp_path / "out", one_file=True)
    (folder / "b").mkdir()
    for name in ("1.dcm", "2.dcm", "b/x.png", "b/x.JPG", "b/more.png.part", "b/notes.txt", "b/.y.png"):
        (folder / name).write_bytes(b"1")
    (folder / "empty.png").touch()
    watcher.look(0, {})
    files = files_to_take(watcher.look(10, {}))
    assert [path.relative_to(folder).as_posix() for path in files] == ["1.dcm", "2.dcm", "b/x.JPG", "b/x.png"]
    control = control_folder(tmp_path / "out", "oct")
    control.mkdir(parents=True)
    listed = read_cohort(write_manifest(control, folder, files, IMAGES), item="image").slides
    assert [one.slide_id for one in listed] == ["1.dcm", "2.dcm", "b/x.JPG", "b/x.png"]
    assert [one.path for one in listed] == files


def test_names_differ_whatever_their_case(tmp_path: Path) -> None:
    names = slide_ids(tmp_path, [tmp_path / "A.svs", tmp_path / "a.tif", tmp_path / "b.svs"])
    assert names == ["A-svs", "a-tif", "b"]


def test_what_was_taken_is_remembered(tmp_path: Path) -> None:
    assert read_memory(tmp_path) == Memory()
    memory = Memory(taken={"a.svs": "0"}, sent=(Sent(manifest="m.csv"),))
    write_memory(tmp_path, memory)
    assert read_memory(tmp_path) == memory
    (tmp_path / "taken.json").write_text("{")
    with pytest.raises(StoreError, match=r"taken\.json"):
        read_memory(tmp_path)

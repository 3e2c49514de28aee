"""Which files of a folder stand for an item: a series for all its slices, in the folder where it lies alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from medvision.core.world import WorldFrame
from medvision.sources.parts import one_of_each_case
from medvision.sources.write_volume import write_dicom_series

FRAME = WorldFrame((0.0, 0.0, 0.0), (2.0, 1.0, 1.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))


def series(folder: Path, uid: str, slices: int = 3) -> list[Path]:
    write_dicom_series(folder, np.zeros((slices, 4, 5), np.int16), FRAME, uid)
    return sorted(folder.glob("*.dcm"))


def test_a_series_alone_in_its_folder_is_the_folder(tmp_path: Path) -> None:
    files = [*series(tmp_path / "a", "1.2.3"), *series(tmp_path / "b", "1.2.4"), tmp_path / "slide.svs"]
    assert one_of_each_case(tmp_path, files) == [tmp_path / "a", tmp_path / "b", tmp_path / "slide.svs"]
    # The folder that is searched is not named after itself, and a single slice is an image.
    assert one_of_each_case(tmp_path / "a", files[:3]) == [files[0]]
    (one,) = series(tmp_path / "c", "1.2.5", 1)
    assert one_of_each_case(tmp_path, [one]) == [one]


def test_what_is_no_volume_stays_a_file(tmp_path: Path) -> None:
    files = series(tmp_path / "slide", "1.2.6")
    for path in files:
        header = pydicom.dcmread(path)
        header.Modality = "SM"
        header.save_as(path)
    assert one_of_each_case(tmp_path, files) == [files[0]]
    both = [*series(tmp_path / "two", "1.2.7")]
    other = pydicom.dcmread(both[2])
    other.SeriesInstanceUID = "1.2.8"
    other.save_as(both[2])
    assert one_of_each_case(tmp_path, both) == [both[0], both[2]]

"""Annotated areas: outlines and mask images give one answer, at any level, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile

from medvision.core.errors import AnnotationError
from medvision.core.geometry import Box
from medvision.sources.annotations import Annotation, write_asap, write_geojson
from medvision.sources.areas import MaskImage, Outlines, read_area, tumour_values, write_area
from medvision.sources.write import write_mask

SHAPE = (600, 900)
RING = np.array([(50.0, 60.0), (80.0, 700.0), (420.0, 640.0), (300.0, 300.0), (500.0, 90.0)])
HOLE = np.array([(100.0, 200.0), (100.0, 300.0), (200.0, 300.0), (200.0, 200.0)])
DRAWN = [Annotation("a", "Tumor", "polygon", RING), Annotation("b", "Exclusion", "polygon", HOLE)]


@pytest.fixture
def outlines(tmp_path: Path) -> Outlines:
    write_asap(tmp_path / "a.xml", DRAWN)
    found = read_area(tmp_path / "a.xml", SHAPE)
    assert isinstance(found, Outlines)
    return found


@pytest.fixture
def whole(outlines: Outlines) -> np.ndarray:
    return outlines.mask(Box((0, 0), SHAPE))


def test_points_and_masks_agree_for_every_kind_of_file(outlines: Outlines, whole, tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson", DRAWN)
    write_mask(
        tmp_path / "a_mask.tif", SHAPE, lambda box: whole[box.slices()].astype(np.uint8), 0.5, tile=128
    )
    assert cv2.imwrite(str(tmp_path / "a_mask.png"), whole.astype(np.uint8) * 255)
    random = np.random.default_rng(0)
    points = np.concatenate([random.uniform(-20, 920, (3000, 2)), np.argwhere(whole)[:500] + 0.5])
    pixels = np.floor(points).astype(int)
    seen = ((pixels >= 0) & (pixels < SHAPE)).all(axis=1)
    expected = np.zeros(len(points), bool)
    expected[seen] = whole[tuple(pixels[seen].T)]
    # A pixel of a mask speaks for its centre.
    assert (outlines.contains(pixels + 0.5) == expected).all()
    for name in ("a.geojson", "a_mask.tif", "a_mask.png"):
        area = read_area(tmp_path / name, SHAPE)
        assert not area.empty
        assert (area.contains(pixels + 0.5) == expected).all()
        box = Box((40, 150), (333, 950))
        assert (area.mask(box) == outlines.mask(box)).all()
        coarse = Box((0, 0), (150, 225))
        assert (area.mask(coarse, 4.0) != outlines.mask(coarse, 4.0)).mean() < 0.02
        area.close()


def test_a_mask_of_half_the_size_of_the_slide_is_placed_on_it(whole, tmp_path: Path) -> None:
    half = whole[::2, ::2].astype(np.uint8)
    write_mask(tmp_path / "m.tif", half.shape, lambda box: half[box.slices()], 1.0)
    area = read_area(tmp_path / "m.tif", SHAPE)
    assert (area.mask(Box((0, 0), SHAPE)) == np.repeat(np.repeat(half, 2, 0), 2, 1).astype(bool)).all()
    assert area.contains(np.array([(150.0, 250.0), (90.0, 400.0), (599.9, 899.9)])).tolist() == [
        False,
        True,
        False,
    ]
    area.close()
    with pytest.raises(AnnotationError, match="not of one shape"):
        read_area(tmp_path / "m.tif", (600, 300))


def test_an_area_is_written_as_a_mask_and_read_back(outlines: Outlines, whole, tmp_path: Path) -> None:
    for downsample in (1, 4):
        path = write_area(tmp_path / f"m{downsample}.tif", outlines, SHAPE, 0.5, downsample=downsample)
        again = read_area(path, SHAPE)
        wrong = again.mask(Box((0, 0), SHAPE)) != whole
        assert wrong.mean() == 0 if downsample == 1 else wrong.mean() < 0.02
        again.close()


def test_a_large_mask_is_read_in_parts(whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask(tmp_path / "m.tif", SHAPE, lambda box: whole[box.slices()].astype(np.uint8), 0.5, tile=128)
    area = read_area(tmp_path / "m.tif", SHAPE)
    assert isinstance(area, MaskImage)
    largest = 0
    read = type(area.source).read

    def watched(self, box, level=0):  # type: ignore[no-untyped-def]
        nonlocal largest
        largest = max(largest, *box.shape)
        return read(self, box, level)

    monkeypatch.setattr(type(area.source), "read", watched)
    monkeypatch.setattr("medvision.sources.areas._NATIVE_SIDE", 100)
    assert (area.mask(Box((0, 0), SHAPE)) == whole).all()
    assert largest <= 100
    area.close()


def test_values_of_masks() -> None:
    assert tumour_values({0, 255}) == (128, 255)
    assert tumour_values({0, 1, 2}) == (2, 2)
    assert tumour_values({0, 1}) == (1, 1)
    assert tumour_values({0}) == (1, 1)
    with pytest.raises(AnnotationError, match="values 0, 1, 2, 3; tumour must be 255, 2"):
        tumour_values({0, 1, 2, 3})


def test_labels_that_mean_nothing_here_are_refused_and_mixtures_are_looked_at_closer(tmp_path: Path) -> None:
    grades = np.zeros((512, 512), np.uint8)
    grades[100:300, 100:300] = 3
    write_mask(tmp_path / "grades.tif", grades.shape, lambda box: grades[box.slices()], 0.5)
    with pytest.raises(AnnotationError, match=r"grades\.tif: a mask of the values 0, 3"):
        read_area(tmp_path / "grades.tif", grades.shape)
    fine, coarse = np.zeros((256, 256), np.uint8), np.zeros((128, 128), np.uint8)
    fine[10, 10], coarse[5, 5] = 255, 64  # a level made by averaging
    with tifffile.TiffWriter(tmp_path / "averaged.tif") as tiff:
        tiff.write(fine, tile=(64, 64))
        tiff.write(coarse, tile=(64, 64), subfiletype=1)
    area = MaskImage.open(tmp_path / "averaged.tif", fine.shape)
    assert (area.least, area.most, area.empty) == (128, 255, False)
    area.close()


def test_normal_slides_are_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.xml").write_bytes(b"")
    write_asap(tmp_path / "none.xml", [])
    blank = np.zeros((64, 64), np.uint8)
    write_mask(tmp_path / "blank.tif", blank.shape, lambda box: blank[box.slices()], 0.5)
    for path in (None, tmp_path / "empty.xml", tmp_path / "none.xml", tmp_path / "blank.tif"):
        area = read_area(path, (64, 64))
        assert area.empty
        assert not area.contains(np.array([(3.0, 3.0)])).any()
        assert not area.mask(Box((0, 0), (8, 8)), 8.0).any()
        area.close()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<what/>")
    (tmp_path / "a.tif").write_bytes(b"nothing")
    write_asap(tmp_path / "b.xml", [Annotation("a", "Necrosis", "polygon", RING)])
    for name, message in (("a.xml", "ASAP_Annotations"), ("a.tif", r"a\.tif"), ("b.xml", "group 'Necrosis'")):
        with pytest.raises(AnnotationError, match=message):
            read_area(tmp_path / name, SHAPE)


@pytest.mark.shared
def test_all_real_patch_centres_and_their_polygons(shared: Path) -> None:
    """CAMELYON16's polygons against all 40,000 patch centres that NCRF was validated on.

    Every normal centre lies outside, and 19,953 of 20,000 tumour centres inside. The other 47 are all of Tumor_107, in
    areas cut out of its tumour, at most 36.2 px from their edge: the centres were drawn from masks of level 6, whose
    pixels of 64 px reach 45 px from their centre.
    """
    folder = shared / "histology" / "camelyon_ncrf_json"
    areas = {path.stem: read_area(path, (1, 1)) for path in (folder / "jsons").glob("*/*.json")}
    outside: dict[str, np.ndarray] = {}
    hits = {"tumor": 0, "normal": 0}
    for name in hits:
        lines = (folder / "coords" / f"{name}_valid.txt").read_text().splitlines()
        rows = [line.split(",") for line in lines]
        assert len(rows) == 20_000
        for slide in sorted({row[0] for row in rows} & set(areas)):
            points = np.array([(float(y), float(x)) for s, x, y in rows if s == slide])
            hit = areas[slide].contains(points)
            hits[name] += int(hit.sum())
            if name == "tumor" and not hit.all():
                outside[slide] = points[~hit]
    assert hits == {"tumor": 19_953, "normal": 0}
    assert {slide: len(points) for slide, points in outside.items()} == {"Tumor_107": 47}
    area = areas["Tumor_107"]
    assert isinstance(area, Outlines)
    cut = [shapely.Polygon(ring) for ring, _ in area.excluded]
    for point in map(shapely.Point, outside["Tumor_107"]):
        assert any(shape.contains(point) and shape.exterior.distance(point) < 36.3 for shape in cut)

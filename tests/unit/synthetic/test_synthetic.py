"""Synthetic slides: repeatable, seamless, true to their truth, and different where pathology differs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
from scipy import ndimage
from shapely import Polygon

from medvision.cli import run
from medvision.core.errors import UsageError
from medvision.core.geometry import Box
from medvision.sources import open_source
from medvision.sources.annotations import read_annotations
from medvision.sources.write import write_slide
from medvision.synthetic import (
    LesionSpec,
    SlideRecipe,
    demo_recipes,
    render_block,
    render_patch,
    synthetic_patches,
    truth_polygons,
    write_synthetic_slide,
)
from medvision.synthetic.anatomy import plan
from medvision.synthetic.slide import _write_classes

CLUSTER = SlideRecipe(
    5, (1400, 1700), lesions=(LesionSpec((180.0, 210.0), 160.0),), stain="violet", scanner="even"
)
OPTIONS = [
    "--size",
    "600",
    "--seed",
    "3",
    "--name",
    "mine",
    "--stain",
    "indigo",
    "--artefacts",
    "dust",
    "pen-blue",
]


def density(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(-np.log(np.maximum(pixels, 1) / 250.0).mean(axis=-1))


def test_pixels_do_not_depend_on_the_block_that_is_asked_for() -> None:
    whole = render_block(CLUSTER, Box((400, 300), (1100, 1200)))
    np.testing.assert_array_equal(render_block(CLUSTER, Box((400, 300), (1100, 1200))), whole)
    for box in (Box((400, 300), (401, 301)), Box((511, 700), (640, 1025)), Box((1000, 1100), (1100, 1200))):
        part = whole[box.shift((-400, -300)).slices()]
        np.testing.assert_array_equal(render_block(CLUSTER, box), part)


def test_there_is_no_seam_between_chunks() -> None:
    """Across a border between separately drawn chunks, neighbours differ no more than elsewhere."""
    pixels = render_block(CLUSTER, Box((300, 300), (900, 900))).astype(float)
    steps = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2))
    assert steps[511 - 300] < 1.25 * np.median(steps)


def test_another_seed_is_another_slide() -> None:
    box = Box((600, 600), (700, 700))
    other = SlideRecipe(6, CLUSTER.shape_px, stain="violet", scanner="even")
    assert (render_block(CLUSTER, box) != render_block(other, box)).mean() > 0.5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory):
    return write_synthetic_slide(CLUSTER, tmp_path_factory.mktemp("slide"), "case")


def test_slide_opens_with_spacing_and_shows_what_was_rendered(written) -> None:
    slide = openslide.OpenSlide(written.slide)
    assert slide.dimensions == (1700, 1400)
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
    found = np.asarray(slide.read_region((500, 500), 0, (400, 400)).convert("RGB")).astype(float)
    drawn = render_block(CLUSTER, Box((500, 500), (900, 900))).astype(float)
    # Luminance; chroma is stored at half the resolution.
    assert np.abs((found - drawn) @ [0.299, 0.587, 0.114]).mean() < 3.0


def test_annotation_and_mask_agree(written) -> None:
    polygons = [Polygon(p) for p in truth_polygons(CLUSTER)]
    annotations = read_annotations(written.annotation)
    assert [a.group for a in annotations] == ["Tumor"]
    mask = tifffile.imread(written.mask, level=0)
    assert mask.shape == CLUSTER.shape_px
    assert set(np.unique(mask)) == {0, 1}
    area = sum(p.area for p in polygons)
    assert mask.sum() == pytest.approx(area, rel=0.005)
    assert sum(Polygon(a.points).area for a in annotations) == pytest.approx(area, rel=1e-3)
    # About the size that was asked for: diameter 160 um, three quarters as wide.
    assert 0.5 < area * 0.25**2 / (np.pi * 80 * 60) < 1.6


def test_bytes_of_all_files_repeat(written, tmp_path: Path) -> None:
    again = write_synthetic_slide(CLUSTER, tmp_path, "case", threads=1)
    for name in ("slide", "annotation", "mask"):
        assert getattr(again, name).read_bytes() == getattr(written, name).read_bytes(), name


def test_normal_slide_has_empty_truth(tmp_path: Path) -> None:
    written = write_synthetic_slide(SlideRecipe(8, (300, 300)), tmp_path)
    assert written.lesions == 0
    assert read_annotations(written.annotation) == []
    assert not tifffile.imread(written.mask, level=0).any()


def test_sizes_follow_the_definitions_of_metastases() -> None:
    def longest_um(metastases: str, shape: tuple[int, int]) -> list[float]:
        polygons = truth_polygons(SlideRecipe(3, shape, metastases=metastases))  # type: ignore[arg-type]
        assert polygons
        return [float(np.ptp(p, axis=0).max()) * 0.25 for p in polygons]

    assert all(size < 250 for size in longest_um("itc", (8192, 9000)))
    assert all(200 < size < 2000 for size in longest_um("micro", (8192, 9000)))
    assert max(longest_um("macro", (16000, 20000))) > 2000


def test_demo_has_two_normal_and_two_with_metastases_of_known_size() -> None:
    recipes = demo_recipes(0)
    truth = [truth_polygons(r) for r in recipes]
    assert [bool(t) for t in truth] == [False, False, True, True]
    largest = [max(float(np.ptp(p, axis=0).max()) * 0.25 for p in t) for t in truth[2:]]
    assert largest[0] > 2000
    assert 200 < largest[1] < 2000
    assert len({r.stain for r in recipes}) == 4
    assert demo_recipes(1)[0] != recipes[0]


def test_tumour_is_paler_and_coarser_than_lymphoid_tissue() -> None:
    """What the eye goes by: less dye per area, and larger structures."""
    recipe = SlideRecipe(
        9, (4000, 4000), lesions=(LesionSpec((500.0, 380.0), 420.0),), stain="plum", scanner="even"
    )
    tumour = render_block(recipe, Box((1880, 1400), (2120, 1640)))
    (outline,) = truth_polygons(recipe)
    assert Polygon(outline).contains(Polygon([(1880, 1400), (1880, 1640), (2120, 1640), (2120, 1400)]))

    def correlation_um(pixels: npt.NDArray[np.uint8]) -> float:
        """Distance at which the autocorrelation of the dye has fallen to a third."""
        d = density(pixels) - density(pixels).mean()
        power = np.abs(np.fft.fft2(d)) ** 2
        along = np.fft.ifft2(power).real[0, :60]
        return float(np.argmax(along / along[0] < 1 / 3)) * 0.25

    lymphoid = [render_patch(seed, "normal") for seed in range(40, 45)]
    dark = [p for p in lymphoid if density(p).mean() > 0.55]
    assert dark
    assert (density(tumour) > 1.0).mean() < min((density(p) > 1.0).mean() for p in dark)
    assert correlation_um(tumour) > 0.5


def test_patches_are_balanced_repeatable_and_each_on_its_own() -> None:
    images, labels = synthetic_patches(6, seed=3, size_px=96)
    assert images.shape == (6, 96, 96, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert labels.dtype == np.int64
    fewer, _ = synthetic_patches(2, seed=3, size_px=96)
    np.testing.assert_array_equal(fewer, images[:2])
    assert (synthetic_patches(2, seed=4, size_px=96)[0] != images[:2]).mean() > 0.5
    assert len({image.tobytes() for image in images}) == 6


def test_patches_have_the_spacing_they_were_asked_in() -> None:
    """At twice the spacing a patch of the same field is half as large, and as dark."""
    fine, coarse = render_patch(5, "tumour", 0.25, 256), render_patch(5, "tumour", 0.5, 128)
    assert coarse.shape == (128, 128, 3)
    assert density(coarse).mean() == pytest.approx(density(fine).mean(), rel=0.35)


def test_artefacts_change_pixels_where_they_lie() -> None:
    shape = (650, 750)
    clean = SlideRecipe(4, shape, 1.0, stain="mauve", scanner="even")
    box = Box((0, 0), shape)
    before = render_block(clean, box).astype(int)
    for name in ("pen-blue", "fold", "defocus", "bubble", "dust", "border-black"):
        after = render_block(
            SlideRecipe(4, shape, 1.0, stain="mauve", scanner="even", artefacts=(name,)), box
        )
        changed = (np.abs(after.astype(int) - before).max(axis=-1) > 12).mean()
        assert 0.0001 < changed < 0.6, name
        if name == "pen-blue":
            blue = after[(np.abs(after.astype(int) - before).max(axis=-1) > 60)].mean(axis=0)
            assert blue[2] > blue[0] + 40
        if name == "border-black":
            assert (after.max(axis=-1) < 8).mean() > 0.01


def test_faint_stain_is_paler() -> None:
    box = Box((600, 600), (900, 900))
    faint = SlideRecipe(5, (1400, 1700), stain="violet", scanner="even", strength=0.4)
    plain = SlideRecipe(5, (1400, 1700), stain="violet", scanner="even")
    assert density(render_block(faint, box)).mean() < 0.6 * density(render_block(plain, box)).mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stain": "pink"}, "known: plum"),
        ({"scanner": "x"}, "known: crisp"),
        ({"artefacts": ("crack",)}, "known: pen-black"),
        ({"metastases": "many"}, "known: none"),
        ({"spacing_um": 0.0}, "0.1 to 4"),
        ({"shape_px": (0, 5)}, "no area"),
        ({"shape_px": (300, 100_001)}, "at most 100000 px"),
    ],
)
def test_unknown_choices_are_named(changes: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {"seed": 1, "shape_px": (300, 300)} | changes
    with pytest.raises(UsageError, match=words):
        SlideRecipe(**arguments)  # type: ignore[arg-type]


def test_a_macrometastasis_needs_room() -> None:
    with pytest.raises(
        UsageError, match=r"does not fit a slide of 3000 x 3000 px.*--size 14000 .*--metastases micro"
    ):
        truth_polygons(SlideRecipe(1, (3000, 3000), metastases="macro"))
    for seed in range(200):
        assert plan(SlideRecipe(seed, (14_000, 14_000), metastases="macro")).lesions
    with pytest.raises(UsageError, match="normal, tumour"):
        render_patch(1, "benign")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no file name"):
        write_synthetic_slide(CLUSTER, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is there and is not a folder"):
        write_synthetic_slide(CLUSTER, tmp_path / "file")


def test_the_mask_of_classes_is_coarse_and_fits_what_is_drawn(tmp_path: Path) -> None:
    recipe = SlideRecipe(4, (1536, 1792), spacing_um=1.0, metastases="micro", stain="plum")
    path = _write_classes(tmp_path / "classes.tif", recipe, truth_polygons(recipe), 1)
    source = open_source(path)
    found = source.read(Box((0, 0), (768, 896)))[..., 0]
    assert source.levels[0].shape == (768, 896)
    assert source.spacing is not None
    assert source.spacing.values == pytest.approx((2.0, 2.0))
    source.close()
    inside = ndimage.distance_transform_edt(found > 0)
    outside = ndimage.distance_transform_edt(found == 0)
    drawn = []
    for depth in (inside, outside):
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        assert depth[row, column] > 25
        corner = np.clip((2 * row - 20, 2 * column - 20), 0, np.array(recipe.shape_px) - 40)
        drawn.append(render_block(recipe, Box.at((int(corner[0]), int(corner[1])), (40, 40))).mean())
    assert drawn[0] < drawn[1] - 20
    assert 0.01 < (found == 2).mean() < 0.3


def test_the_command_maps_its_options_to_the_recipe(tmp_path: Path) -> None:
    assert run(["synthesize", "--out", str(tmp_path), *OPTIONS]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "mine.tif",
        "mine.xml",
        "mine_classes.tif",
        "mine_mask.tif",
    ]
    recipe = SlideRecipe(3, (600, 600), metastases="micro", stain="indigo", artefacts=("dust", "pen-blue"))
    same = write_synthetic_slide(recipe, tmp_path / "library", "mine")
    assert (tmp_path / "mine.tif").read_bytes() == same.slide.read_bytes()


def test_the_command_says_how_large_a_slide_must_be(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["synthesize", "--out", str(tmp_path / "out"), "--metastases", "macro"]) == 2
    assert "--size 14000" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stopped_writer_leaves_no_file(tmp_path: Path, stop: type[BaseException]) -> None:
    def read(box: Box) -> npt.NDArray[np.uint8]:
        if box.start[0] > 0:
            raise stop
        return np.zeros((*box.shape, 3), np.uint8)

    with pytest.raises(stop):
        write_slide(tmp_path / "a.tif", (4096, 1024), read, 0.25)
    assert list(tmp_path.iterdir()) == []


_STOPPED = """
import signal, sys
from pathlib import Path
from medvision.synthetic import SlideRecipe, write_synthetic_slide

def stop(*_):
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
write_synthetic_slide(SlideRecipe(1, (12_000, 12_000)), Path(sys.argv[1]))
"""


def test_a_terminated_process_leaves_no_file(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _STOPPED, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size for p in tmp_path.glob("*.partial")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob("*.partial"))
        child.terminate()
        assert child.wait(60) == 143
    assert list(tmp_path.iterdir()) == []


_PEAK = """
import resource, sys
from pathlib import Path
from medvision.synthetic import SlideRecipe, write_synthetic_slide
side = int(sys.argv[1])
write_synthetic_slide(SlideRecipe(2, (4096, side), spacing_um=1.0), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    def peak_mib(side: int) -> int:
        command = [sys.executable, "-c", _PEAK, str(side), str(tmp_path / str(side))]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak_mib(20480) < peak_mib(4096) + 150

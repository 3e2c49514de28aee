"""A realistic result folder, drawn with numpy: a lymph node with two suspicious regions."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medvision.ops.overlay import colourise
from medvision.store.records import (
    HeatmapInfo,
    ModelInfo,
    QcMeasure,
    Region,
    RunRecord,
    SlideInfo,
    SlideResult,
    TissueInfo,
)

ROWS, COLUMNS = 24_000, 36_000
THUMBNAIL = (400, 600)
SPACING_UM = 0.5

MakeResult = Callable[..., Path]


def _tissue(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[: THUMBNAIL[0], : THUMBNAIL[1]]
    wave = ndimage.gaussian_filter(rng.standard_normal(THUMBNAIL), 25)
    wave /= np.abs(wave).max()
    return ((rows - 200) / 150) ** 2 + ((columns - 300) / 240) ** 2 + 0.5 * wave < 1


def _stained(tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grain = ndimage.gaussian_filter(rng.standard_normal(tissue.shape), 1.2)
    grain = np.clip(0.5 + 2.0 * grain, 0, 1)[..., None]
    stain = (1 - grain) * np.array([150, 110, 175]) + grain * np.array([226, 180, 208])
    return np.where(tissue[..., None], stain, 244).astype(np.uint8)


def _probability(tissue: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: THUMBNAIL[0], : THUMBNAIL[1]]
    hot = 0.97 * np.exp(-(((rows - 150) / 40) ** 2 + ((columns - 380) / 55) ** 2))
    warm = 0.74 * np.exp(-(((rows - 270) / 18) ** 2 + ((columns - 200) / 18) ** 2))
    return np.where(tissue, np.maximum(np.maximum(hot, warm), 0.03), np.nan).astype(np.float32)


def _ring(centre: tuple[float, float], radii: tuple[float, float]) -> list[list[float]]:
    """A closed ellipse in level-0 (x, y), from (row, column) of the thumbnail."""
    factor = ROWS / THUMBNAIL[0]
    turns = np.linspace(0, 2 * np.pi, 41)
    x = (centre[1] + radii[1] * np.cos(turns)) * factor
    y = (centre[0] + radii[0] * np.sin(turns)) * factor
    return [[round(a, 1), round(b, 1)] for a, b in zip(x, y, strict=True)]


def _region(number: int, centre: tuple[float, float], radii: tuple[float, float], score: float) -> Region:
    factor = ROWS / THUMBNAIL[0]
    row, column = centre[0] * factor, centre[1] * factor
    half = (radii[0] * factor, radii[1] * factor)
    mm = SPACING_UM / 1000
    return Region(
        id=number,
        centroid=(row, column),
        peak=(row, column),
        bbox=(row - half[0], column - half[1], row + half[0], column + half[1]),
        area_mm2=float(np.pi * half[0] * half[1] * mm * mm),
        length_mm=2 * max(half) * mm,
        max_probability=score,
        mean_probability=score * 0.86,
        score=score * 0.97,
        crop=f"region-{number:02d}.jpg",
        crop_spacing_um=0.5,
        crop_width_um=256.0,
    )


def _slide_result(name: str) -> SlideResult:
    return SlideResult(
        verdict="done",
        slide=SlideInfo(
            name=name,
            digest="3f" * 32,
            reader="openslide",
            reader_reason="OpenSlide knows the format as 'aperio'",
            vendor="aperio",
            shape=(ROWS, COLUMNS),
            levels=4,
            spacing_um=(SPACING_UM, SPACING_UM),
            spacing_origin="file",
            metadata={"objective power": "20", "scanner": "ScanScope AT2"},
        ),
        model=ModelInfo(
            name="camelyon-mini",
            version="1.0",
            digest="a9" * 32,
            classes=("normal", "tumor"),
            positive="tumor",
            window_px=(96, 96),
            spacing_um=1.0,
            calibration="uncalibrated",
            card="docs/models/camelyon-mini.md",
        ),
        config={"stride_um": 48.0, "threshold": 0.5, "spacing_um": None, "checkpoints": True},
        config_digest="5c" * 32,
        software={
            "medvision": "0.1.0",
            "numpy": "2.3.0",
            "openslide": "4.0.1",
            "python": "3.12.3",
            "torch": "2.11",
        },
        threshold=0.5,
        probability=0.9412,
        score_rule="Highest mean probability over 3 × 3 neighbouring cells (at least 3 of them read).",
        label="positive",
        heatmap=HeatmapInfo(
            file="heatmap.ome.tiff", stride_um=48.0, shape=(250, 375), windows=37_411, unread=3
        ),
        tissue=TissueInfo(
            area_mm2=86.204, share=0.3991, method="otsu on saturation", thresholds={"saturation": 0.07}
        ),
        qc=(
            QcMeasure(
                name="tissue share",
                value=0.3991,
                unit="",
                ok=True,
                limit=">= 0.01",
                meaning="Tissue on glass.",
            ),
            QcMeasure(
                name="blur",
                value=61.2,
                unit="",
                ok=False,
                limit=">= 80",
                meaning="Variance of the Laplacian; low is soft.",
            ),
            QcMeasure(
                name="pen",
                value=0.0,
                unit="",
                ok=True,
                limit="<= 0.02",
                meaning="Ink over the slide, by hue.",
            ),
        ),
        regions=(_region(1, (150, 380), (32, 44), 0.97), _region(2, (270, 200), (11, 11), 0.74)),
        limits=("Trained on lymph nodes only.", "Isolated tumour cells are not resolved at 1 µm/px."),
        images={"thumbnail": "thumbnail.jpg", "heatmap": "heatmap.png", "tissue": "tissue.png"},
        thumbnail_spacing_um=SPACING_UM * ROWS / THUMBNAIL[0],
    )


def _run_record() -> RunRecord:
    return RunRecord(
        run_id="20250301T101500Z-7f3a",
        started_utc="2025-03-01T10:15:00Z",
        finished_utc="2025-03-01T10:17:42Z",
        seconds=162.4,
        device="cuda:0",
        batch_size=256,
        precision="float32",
        tiles_per_second=812.3,
        command="medvision analyze slide.svs --out out",
        warnings=("The stain lies outside the range that the model card names.",),
    )


def _write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(7)
    tissue = _tissue(rng)
    Image.fromarray(_stained(tissue, rng)).save(folder / "thumbnail.jpg", quality=90)
    Image.fromarray(tissue.astype(np.uint8) * 255).save(folder / "tissue.png")
    Image.fromarray(colourise(_probability(tissue))).save(folder / "heatmap.png")
    for number in (1, 2):
        crop = _stained(np.ones((256, 256), bool), rng)
        Image.fromarray(crop).save(folder / f"region-{number:02d}.jpg", quality=92)
    rings = [_ring((150, 380), (32, 44)), _ring((270, 200), (11, 11))]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "name": f"region {number}"},
        }
        for number, ring in enumerate(rings, start=1)
    ]
    (folder / "regions.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    _write_pictures(folder)
    return folder


@pytest.fixture
def make_result(tmp_path: Path, pictures: Path) -> MakeResult:
    """Writes a result folder; keyword arguments replace fields of the record, `slide` and `run` fields of theirs."""

    def make(
        name: str = "node-07",
        *,
        folder: Path | None = None,
        slide: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / "slide" if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures.iterdir():
            (folder / picture.name).write_bytes(picture.read_bytes())
        result = _slide_result(name)
        info = result.slide.model_copy(update=slide or {})
        result = result.model_copy(update={"slide": info, **changes})
        (folder / "result.json").write_text(result.model_dump_json(indent=1))
        (folder / "run.json").write_text(_run_record().model_copy(update=run or {}).model_dump_json(indent=1))
        return folder

    return make


class Page(HTMLParser):
    """Tags with attributes, text outside scripts and styles, and the inline script and style."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self._within = ""
        self.feed(page.decode("utf-8"))
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag if tag in self.inline else ""

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.inline[self._within].append(data)
        else:
            self.words.append(data)

    @property
    def policy(self) -> str:
        return next(
            a["content"] or "" for _, a in self.tags if a.get("http-equiv") == "Content-Security-Policy"
        )

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def _assert_inert(page: Page) -> None:
    """One script and one style, named by digest in the policy; no handler, no style attribute, nothing to fetch."""
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert names.count("style") == 1
    policy = page.policy
    for kind in ("script", "style"):
        inline = "".join(page.inline[kind])
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")
        ], tag
    assert not {"iframe", "object", "embed", "base", "form", "link"} & set(names)
    assert all(source.startswith("data:image/") for source in page.attributes("src"))
    assert all(re.match(r"data:image/|#|\./", address) for address in page.attributes("href"))
    assert "@import" not in page.inline["style"][0]
    assert re.findall(r"url\((?!data:font/)", page.inline["style"][0]) == []


@pytest.fixture
def page_of() -> type[Page]:
    """Parses a page's bytes."""
    return Page


@pytest.fixture
def assert_inert() -> Callable[[Page], None]:
    """Fails for a parsed page that could run or fetch anything but its own."""
    return _assert_inert

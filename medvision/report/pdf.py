"""A report as an A4 PDF, set by typst from the same view model. No font of the machine is used, so bytes repeat."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import typst

from medvision.core.errors import StoreError
from medvision.report.html import FONTS, HERE, aspect
from medvision.report.model import Overview, Report
from medvision.report.pictures import HEAT_OPACITY, Picture, faded, svg_path

_LONG_WORD = re.compile(r"\S{28,}")
_BREAK_EVERY = 8


def render_pdf(report: Report) -> bytes:
    """The report as PDF. Equal reports give equal bytes: no clock, no system font, no path gets into the file.

    Strings reach typst as JSON data and are never part of its source, so nothing in them is markup or code.

    Raises:
        StoreError: if typst cannot set the page, with its reason.
    """
    with tempfile.TemporaryDirectory(prefix="medvision-report-") as scratch:
        root = Path(scratch)
        data: dict[str, Any] = _plain(_for_paper(report), root)
        if report.overview is not None:
            data["overview"]["outlines"] = _outlines(report.overview, root)
        data["aspect"] = aspect(report.overview) if report.overview else 1.0
        (root / "report.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        main = root / "report.typ"
        main.write_bytes((HERE / "templates" / "report.typ").read_bytes())
        try:
            compiler = typst.Compiler(str(main), root=str(root), font_paths=_fonts(root))
            pdf = compiler.compile(format="pdf", timestamp=0)
        except typst.TypstError as error:
            raise StoreError(f"{report.slide}: the PDF could not be set: {error}") from error
    assert isinstance(pdf, bytes), "a PDF is one file"
    return pdf


def _for_paper(report: Report) -> Report:
    """The report with the heat as faint as the page first shows it, and without the outlines, which are drawn apart."""
    if report.overview is None:
        return report
    heatmap = report.overview.heatmap and faded(report.overview.heatmap, HEAT_OPACITY)
    return replace(report, overview=replace(report.overview, heatmap=heatmap, outlines=()))


def _outlines(overview: Overview, root: Path) -> str | None:
    """The outlines as an SVG file: typst takes one large drawing far faster than thousands of small ones."""
    if not overview.outlines:
        return None
    width, height = overview.thumbnail.width, overview.thumbnail.height
    path = svg_path(overview.outlines, width, height)
    unit = max(width, height) / 1000
    strokes = "".join(
        f'<path d="{path}" stroke="{colour}" stroke-width="{thickness * unit:.3f}"/>'
        for colour, thickness in (("#ffffff", 6.0), ("#0b1a26", 2.5))
    )
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" fill="none" stroke-linejoin="round"'
    (root / "outlines.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{strokes}</svg>', encoding="utf-8"
    )
    return "outlines.svg"


def _plain(value: Any, root: Path) -> Any:
    """The view model as JSON data; pictures are written into `root` and become `{path, alt, ...}`."""
    if isinstance(value, Picture):
        name = f"picture-{len(list(root.glob('picture-*'))):03d}.{value.suffix}"
        (root / name).write_bytes(value.data)
        return {"path": name, "alt": value.alt, "width": value.width, "height": value.height}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name), root) for name in (field.name for field in fields(value))}
    if isinstance(value, tuple):
        return [_plain(item, root) for item in value]
    return breakable(value) if isinstance(value, str) else value


def breakable(words: str) -> str:
    """The text with chances to break a line inside very long words, which would run off the paper otherwise."""

    def chances(match: re.Match[str]) -> str:
        word = match.group()
        return "\u200b".join(word[i : i + _BREAK_EVERY] for i in range(0, len(word), _BREAK_EVERY))

    return _LONG_WORD.sub(chances, words)


def _fonts(root: Path) -> typst.Fonts:
    """Inter for the text, DejaVu Sans (from matplotlib's wheel) for scripts and signs that Inter's subset lacks.

    They are gathered in a folder of their own, since typst takes folders and would pick any font that it finds there.
    """
    found = importlib.util.find_spec("matplotlib")
    assert found is not None, "matplotlib is a dependency of this package"
    assert found.submodule_search_locations, "matplotlib is a package"
    wide = Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    folder = root / "fonts"
    folder.mkdir()
    for path in (*FONTS.values(), wide / "DejaVuSans.ttf", wide / "DejaVuSans-Bold.ttf"):
        shutil.copyfile(path, folder / path.name)
    return typst.Fonts(include_system_fonts=False, font_paths=[str(folder)])

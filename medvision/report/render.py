"""Write reports from stored results: for one slide, or for every slide of a run and its index page."""

from __future__ import annotations

from pathlib import Path

from medvision.core.errors import StoreError, UsageError
from medvision.report.build import RESULT, build_report
from medvision.report.html import (
    render_html,
    render_image_html,
    render_scan_html,
    render_segment_html,
)
from medvision.report.image_build import build_image_report
from medvision.report.index import INDEX_JSON, render_index
from medvision.report.pdf import render_pdf
from medvision.report.result import read_result
from medvision.report.scan_build import build_scan_report
from medvision.report.segment_build import build_segment_report
from medvision.store.files import atomic_write, is_set_aside
from medvision.store.image_records import ImageResult
from medvision.store.manifest import MANIFEST
from medvision.store.scan_records import NoduleResult
from medvision.store.segment_records import SegmentResult
from medvision.store.store import ResultStore

HTML = "report.html"
PDF = "report.pdf"


def write_report(folder: Path) -> list[Path]:
    """Render the HTML and PDF of a slide, or the HTML of an image, a scan or a case, whose result lies in `folder`.

    Returns the paths.

    Raises:
        StoreError: if the result is missing, of another schema version, or a picture is missing or broken.
    """
    result = read_result(folder / RESULT)
    if isinstance(result, NoduleResult):
        atomic_write(folder / HTML, render_scan_html(build_scan_report(folder)))
        return [folder / HTML]
    if isinstance(result, SegmentResult):
        atomic_write(folder / HTML, render_segment_html(build_segment_report(folder)))
        return [folder / HTML]
    if isinstance(result, ImageResult):
        atomic_write(folder / HTML, render_image_html(build_image_report(folder)))
        return [folder / HTML]
    report = build_report(folder)
    pages = {folder / HTML: render_html(report), folder / PDF: render_pdf(report)}
    for path, data in pages.items():
        atomic_write(path, data)
    return list(pages)


def render_reports(folder: Path) -> list[Path]:
    """Render again from stored files, nothing recomputed; returns the paths written, the index page last.

    `folder` is a slide's result folder, or a run's folder with such folders in it. Equal stored files give equal bytes.

    Raises:
        UsageError: if `folder` is neither.
        StoreError: if a result is incomplete, altered, or of another schema version; in a run, after all other slides
            and the index page were rendered.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give a slide's result folder, or the folder of a run")
    if (folder / RESULT).is_file():
        return _render_again(folder)
    slides = sorted(
        path.parent
        for path in folder.glob(f"*/{RESULT}")
        if not path.parent.name.startswith(".") and not is_set_aside(path.parent)
    )
    if not slides and not (folder / INDEX_JSON).is_file():
        raise UsageError(
            f"{folder}: holds neither {RESULT} nor folders with one; `medvision analyze --out` makes them"
        )
    written: list[Path] = []
    problems: list[str] = []
    for slide in slides:
        try:
            written += _render_again(slide)
        except StoreError as error:
            problems.append(str(error))
    with ResultStore(folder).lock(INDEX_JSON):
        written.append(render_index(folder))
    if problems:
        raise StoreError(
            f"{len(problems)} of {len(slides)} slides could not be rendered, the others were: {'; '.join(problems)}"
        )
    return written


def _render_again(folder: Path) -> list[Path]:
    """Write a slide's report under its lock, and record the new digests where the store keeps a manifest.

    An altered or lost report is what one renders again for; any other altered file is refused.
    """
    if not (folder / MANIFEST).is_file():
        return write_report(folder)
    with ResultStore(folder.parent).rewriting(folder.name, (HTML, PDF)) as inside:
        return write_report(inside)

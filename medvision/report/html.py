"""A report as one HTML file that loads nothing: pictures, fonts, styles and the script are inside it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medvision.report.model import ImageReport, Overview, Report, ScanReport, SegmentReport
from medvision.report.pictures import HEAT_OPACITY, svg_path

HERE = Path(__file__).parent
FONTS = {400: HERE / "fonts" / "Inter-Regular.ttf", 600: HERE / "fonts" / "Inter-SemiBold.ttf"}

_BESIDE = " 'self' file:"
"""Pictures from where the page is from; `file:` for a page that was opened as a file, of which no server's page can."""
_TALLEST_REM = 46
_TALLEST_ALONE_REM = 26
_WIDE = 1.9


def render_html(report: Report) -> bytes:
    """The report as a self-contained page, UTF-8. Equal reports give equal bytes.

    Every value is escaped by the template; the page's policy lets no other script or style run and nothing be fetched.
    """
    return _rendered("report.html.j2", report, _placement(report))


def render_image_html(report: ImageReport) -> bytes:
    """The same of an image's report."""
    return _rendered("image_report.html.j2", report, "\n".join(_overview_rules(report.overview)) + "\n")


def render_scan_html(report: ScanReport) -> bytes:
    """The same of a scan's report."""
    rules = []
    for view in report.projections:
        ratio = view.picture.width / view.picture.height
        rules += [
            f"#{view.key}{{aspect-ratio:{ratio:.5f};max-width:{_TALLEST_ALONE_REM * ratio:.2f}rem}}",
            f"#{view.key} .bar{{width:{100 * view.scale.fraction:.4f}%}}",
        ]
    for card in report.cards:
        rules.append(f"#finding-{card.number} .bar{{width:{100 * card.scale.fraction:.4f}%}}")
    return render_page(
        "scan_report.html.j2",
        style=read_template("common.css")
        + read_template("report.css")
        + read_template("scan.css")
        + "\n".join(rules)
        + "\n",
        script=read_template("report.js"),
        report=report,
    )


def render_segment_html(report: SegmentReport) -> bytes:
    """The same of the report of what was segmented."""
    rules = []
    for panel in report.panels:
        ratio = panel.picture.width / panel.picture.height
        rules.append(f"#{panel.key}{{aspect-ratio:{ratio:.5f};max-width:{_TALLEST_REM * ratio:.2f}rem}}")
        if panel.scale is not None:
            rules.append(f"#{panel.key} .bar{{width:{100 * panel.scale.fraction:.4f}%}}")
    rules += [f".swatch-{number}{{background:{one.colour}}}" for number, one in enumerate(report.legend)]
    return render_page(
        "segment_report.html.j2",
        style=read_template("common.css")
        + read_template("report.css")
        + read_template("segment.css")
        + "\n".join(rules)
        + "\n",
        script=read_template("segment.js"),
        report=report,
    )


def _rendered(template: str, report: Report | ImageReport, placement: str) -> bytes:
    return render_page(
        template,
        style=read_template("common.css") + read_template("report.css") + placement,
        script=read_template("report.js"),
        report=report,
        wide=report.overview is not None and aspect(report.overview) > _WIDE,
        opacity_percent=round(100 * HEAT_OPACITY),
        path_of=svg_path,
    )


def render_page(
    template: str, *, style: str, script: str, files_beside: bool = False, **values: Any
) -> bytes:
    """A template filled in, with the fonts added to its style and a policy that names both inline parts' digests.

    With `files_beside` the page may show pictures of its own origin, or folder, beside those inside it.
    """
    style = _font_faces() + style
    policy = (
        f"default-src 'none'; img-src data:{_BESIDE if files_beside else ''}; font-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template).render(style=style, script=script, policy=policy, **values)
    return page.encode("utf-8")


def read_template(name: str) -> str:
    """The text of a file beside the templates."""
    return (HERE / "templates" / name).read_text(encoding="utf-8")


def aspect(overview: Overview) -> float:
    """Width by height of the overview."""
    return overview.thumbnail.width / overview.thumbnail.height


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _font_faces() -> str:
    faces = []
    for weight, path in FONTS.items():
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        source = f"url(data:font/ttf;base64,{data}) format('truetype')"
        faces.append(f"@font-face{{font-family:Inter;font-weight:{weight};src:{source}}}\n")
    return "".join(faces)


def _digest(inline: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(inline.encode("utf-8")).digest()).decode("ascii")


def _placement(report: Report) -> str:
    """Rules for what depends on this slide's numbers; the policy forbids `style` attributes."""
    rules: list[str] = []
    if report.overview is not None:
        rules += _overview_rules(report.overview)
    for card in report.cards:
        if card.scale is not None:
            rules.append(f"#region-{card.number} .bar{{width:{100 * card.scale.fraction:.4f}%}}")
    return "\n".join(rules) + "\n"


def _overview_rules(overview: Overview) -> list[str]:
    ratio = aspect(overview)
    tallest = _TALLEST_REM if overview.heatmap else _TALLEST_ALONE_REM
    rules = [f".stack{{aspect-ratio:{ratio:.5f};max-width:{tallest * ratio:.2f}rem}}"]
    if overview.scale is not None:
        rules.append(f".stack .bar{{width:{100 * overview.scale.fraction:.4f}%}}")
    for mark in overview.marks:
        rules.append(f"#m{mark.number}{{left:{100 * mark.x:.3f}%;top:{100 * mark.y:.3f}%}}")
    return rules

"""The HTML report, judged as a browser would: parsed, not searched."""

from __future__ import annotations

import re

import pytest

from medvision.ops.overlay import colour_table
from medvision.report.build import build_report, read_record
from medvision.report.html import render_html
from medvision.report.pictures import colour_stops
from medvision.store.records import QcMeasure, SlideResult

HOSTILE = (
    "</title></style></script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    '#eval("1+1") #panic("x") $x$ *b* _i_ `r` \\ @ref <label> // c',
    "javascript:alert(3)",
)


def test_reading_order(make_result, page_of, assert_inert):
    page = page_of(render_html(build_report(make_result())))
    assert_inert(page)
    parts = (
        "RESEARCH USE ONLY – not for diagnosis",
        "Positive: tumor",
        "threshold 0.500",
        "uncalibrated",
        "Highest mean probability over 3 × 3",
        "Slide, 18.00 × 12.00 mm",
        "Regions of highest probability",
        "right 11.40, down 4.50 mm",
        "x 22800, y 9000",
        "Measurements",
        "Pixel spacing 0.5 µm/px, read from the file.",
        "Quality control",
        "Unread windows 3 of 37,411",
        "Provenance",
        "3f" * 32,
        "20250301T101500Z-7f3a",
        "2025-03-01T10:15:00Z",
        "Limits",
        "Reviewed by",
        "Agree",
        "Signature",
        "RESEARCH USE ONLY – not for diagnosis",
    )
    positions, start = [], 0
    for part in parts:
        start = page.text.find(part, start)
        positions.append((part, start))
        assert start >= 0, positions
        start += len(part)


def test_the_command_line_is_not_shown(make_result):
    page = render_html(build_report(make_result(run={"command": "medvision analyze JANE_DOE_1970.svs"})))
    assert b"JANE_DOE" not in page


def test_hostile_strings_are_shown_and_inert(make_result, page_of, assert_inert):
    measure = QcMeasure(
        name=HOSTILE[0], value=1.0, unit=HOSTILE[1], ok=False, limit=HOSTILE[2], meaning=HOSTILE[3]
    )
    for name in HOSTILE:
        folder = make_result(
            name,
            slide={"vendor": name, "metadata": {name: name}},
            run={"warnings": (name,), "run_id": name},
            limits=(name,),
            reason=name,
            qc=(measure,),
            software={name: name},
            config={name: name},
        )
        page = page_of(render_html(build_report(folder)))
        assert_inert(page)
        assert page.text.count(" ".join(name.split())) >= 6, name


def test_characters_that_hide_or_turn_text_are_spelt_out(make_result, page_of):
    page = page_of(render_html(build_report(make_result("evil\u202egpj.\nsvs\x00 שלום"))))
    assert "evil⟨U+202E⟩gpj.⟨U+000A⟩svs⟨U+0000⟩ שלום" in page.text
    assert "\u202e" not in page.text


def test_equal_bytes(make_result):
    report = build_report(make_result())
    assert render_html(report) == render_html(build_report(make_result()))


def test_scale_bars_measure_what_they_say(make_result, page_of):
    style = page_of(render_html(build_report(make_result()))).inline["style"][0]
    (overview,) = re.findall(r"\.stack \.bar\{width:([\d.]+)%\}", style)
    assert float(overview) / 100 * 18.0 == pytest.approx(2.0, rel=1e-4)
    (crop,) = re.findall(r"#region-1 \.bar\{width:([\d.]+)%\}", style)
    assert float(crop) / 100 * 256.0 == pytest.approx(50.0, rel=1e-4)


@pytest.mark.parametrize(
    ("row", "column", "beyond"),
    [(256, 256, False), (200, 4000, True), (4000, 200, True), (11_900, 4000, True), (11_744, 17_744, False)],
)
def test_a_picture_that_leaves_the_slide_says_so(make_result, page_of, row, column, beyond):
    """Crops of 256 µm, which are 512 pixels, on a slide of 12,000 by 18,000."""
    region = read_record(make_result() / "result.json", SlideResult).regions[0]
    moved = region.model_copy(update={"peak": (row, column)})
    folder = make_result(regions=(moved,), slide={"spacing_um": (0.5, 0.5), "shape": (12_000, 18_000)})
    assert ("beyond the slide's edge" in page_of(render_html(build_report(folder))).text) is beyond


def test_outlines_lie_where_the_geojson_says(make_result, page_of):
    page = page_of(render_html(build_report(make_result())))
    (path,) = [attributes["d"] for tag, attributes in page.tags if attributes.get("id") == "outline"]
    rings = [
        [tuple(map(float, point.split(","))) for point in ring.rstrip("Z").split()]
        for ring in (path or "").split("M")
        if ring
    ]
    assert len(rings) == 2
    # Region 1 is an ellipse about row 150, column 380 of a thumbnail of 400 x 600 pixels, radii 32 and 44.
    assert min(x for x, _ in rings[0]) == pytest.approx(336, abs=0.2)
    assert max(x for x, _ in rings[0]) == pytest.approx(424, abs=0.2)
    assert min(y for _, y in rings[0]) == pytest.approx(118, abs=0.2)
    assert max(y for _, y in rings[0]) == pytest.approx(182, abs=0.2)


def test_colour_bar_is_the_colour_table_over_white():
    stops = colour_stops(colour_table())
    assert stops[0].colour == "#ffffff", "a probability of 0 leaves the tissue as it is"
    assert stops[-1].colour == "#" + "".join(f"{part:02x}" for part in colour_table()[255, :3])
    assert [stop.at for stop in stops] == sorted({stop.at for stop in stops})


def test_without_spacing_nothing_is_in_millimetres(make_result, page_of):
    report = build_report(make_result(slide={"spacing_um": None, "spacing_origin": None}))
    page = page_of(render_html(report))
    assert "Lengths and areas are refused" in page.text
    assert re.findall(r"\d ?mm", page.text) == []
    assert 'class="bar"' not in str(page.tags)
    assert "x 22800, y 9000" in page.text
    assert report.overview is not None
    assert report.overview.scale is None


def test_supplied_spacing_is_said(make_result, page_of):
    text = page_of(render_html(build_report(make_result(slide={"spacing_origin": "supplied"})))).text
    assert "supplied by the user, not read from the file" in text
    assert "2.64 mm" in text


def test_calibrated_models_are_not_called_uncalibrated(make_result, page_of):
    folder = make_result()
    result = (folder / "result.json").read_text().replace('"uncalibrated"', '"temperature 1.3 on 400 slides"')
    (folder / "result.json").write_text(result)
    text = page_of(render_html(build_report(folder))).text
    assert "temperature 1.3 on 400 slides" in text
    assert "uncalibrated" not in text
    assert (
        "temperature 1.3 on 400 slides – of the windows; the slide's figure orders slides by suspicion"
        in text
    )


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"label": "positive"}, "Positive: tumor"),
        ({"label": "negative", "probability": 0.12, "regions": ()}, "Negative: tumor below threshold"),
        ({"verdict": "no tissue", "probability": None, "label": None}, "No tissue found"),
        ({"verdict": "QC rejected", "probability": None, "label": None}, "Rejected by quality control"),
        ({"verdict": "failed", "probability": None, "label": None}, "Analysis failed"),
    ],
)
def test_every_verdict_has_a_clear_page(make_result, changes, title, page_of, assert_inert):
    if changes.get("verdict"):
        changes |= {
            "reason": "Because of this.",
            "heatmap": None,
            "regions": (),
            "images": {},
            "tissue": None,
            "qc": (),
        }
    page = page_of(render_html(build_report(make_result(**changes))))
    assert_inert(page)
    assert title in page.text
    assert "Provenance" in page.text
    if changes.get("verdict"):
        assert "Because of this." in page.text
        assert not re.search(r"Probability \d", page.text)


def test_many_regions_are_cut_short_and_said(make_result, page_of):
    region = SlideResult.model_validate_json((make_result() / "result.json").read_bytes()).regions[0]
    many = tuple(region.model_copy(update={"id": i, "crop": None}) for i in range(1, 101))
    text = page_of(render_html(build_report(make_result(regions=many)))).text
    assert "60 further regions in regions.geojson and result.json." in text

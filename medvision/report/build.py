"""From a slide's result folder to the `Report`. Nothing is measured here: stored figures are put into words."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from medvision.core.errors import StoreError
from medvision.report import format as text
from medvision.report.model import (
    Check,
    Fact,
    Gauge,
    Grid,
    Mark,
    Overview,
    RegionCard,
    Report,
    Tone,
    Verdict,
)
from medvision.report.pictures import bar_for, colour_stops, load_colours, load_outlines, load_picture
from medvision.report.provenance import provenance
from medvision.store.records import QcMeasure, Region, RunRecord, SlideResult

RESULT = "result.json"
RUN = "run.json"
OUTLINES = "regions.geojson"
TABLE_ROWS = 40
"""Regions listed in print; a slide with more refers to the files, which hold all."""

R = TypeVar("R", bound=BaseModel)

_MAP_NOTES = {
    "probability": (
        "Probability by window. The scale is fixed: the same colour means the same probability on every slide. Tissue "
        "left uncoloured scored low; windows without tissue or unread are blank."
    ),
    "attention": (
        "Attention by window, as a share of the largest on this slide: how much a window counted for the slide's "
        "probability, whatever the answer. It is no probability, and colours of two slides cannot be compared. Windows "
        "without tissue or unread are blank."
    ),
    "none": "",
}

_WITHHELD = "Figures and heatmap of a rejected slide are left out here; the result's files hold them."


def build_report(folder: Path) -> Report:
    """The report of the slide whose result lies in `folder`.

    Raises:
        StoreError: if `result.json` or `run.json` is missing or of another schema version, or a picture that the result
            names is missing or broken.
    """
    result = read_record(folder / RESULT, SlideResult)
    run = read_record(folder / RUN, RunRecord)
    regions = result.regions if result.verdict == "done" else ()
    overview = _overview(result, folder)
    heatmap = overview.heatmap if overview else None
    cards = tuple(_card(region, result, folder) for region in regions if region.crop)
    return Report(
        title=f"{text.visible(result.slide.name)} – slide report",
        slide=text.visible(result.slide.name),
        subtitle=_subtitle(result, run),
        verdict=_verdict(result),
        threshold_text=text.probability(result.threshold),
        overview=overview,
        colours=colour_stops(load_colours(folder, result.images.get("colours"), heatmap)),
        cards=cards,
        cards_note=_cards_note(result, len(cards)),
        measures=_measures(result),
        measures_note=_measures_note(result),
        region_table=_region_table(result),
        checks=_checks(result),
        warnings=tuple(text.visible(warning) for warning in run.warnings),
        provenance=provenance(result, run),
        limits=tuple(text.visible(limit) for limit in result.limits),
        footer=(text.shortened(text.visible(result.slide.name), 44), text.visible(f"run {run.run_id}")),
    )


def read_record(path: Path, kind: type[R]) -> R:
    """A stored record, checked.

    Raises:
        StoreError: if the file is missing, unreadable, or of another schema version than this program writes.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: missing; a result folder of `medvision analyze` holds this file"
        ) from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if where == "schema_version":
            raise StoreError(
                f"{path}: schema version {first['input']!r} is not the one this program reads (1); analyse again"
            ) from error
        raise StoreError(f"{path}: {where}: {first['msg']}") from error


def _positive(result: SlideResult) -> str:
    return text.visible(result.model.positive)


def _subtitle(result: SlideResult, run: RunRecord) -> tuple[str, ...]:
    model = f"{result.model.name} {result.model.version}".strip()
    return tuple(text.visible(part) for part in (f"Model {model}", f"Analysed {run.finished_utc}") if part)


# --- 2. the result -------------------------------------------------------------------------------------------------


def _verdict(result: SlideResult) -> Verdict:
    tone, title, explanation = _words(result)
    gauge = None
    if result.verdict == "done" and result.probability is not None:
        gauge = Gauge(
            probability=min(max(result.probability, 0.0), 1.0),
            threshold=min(max(result.judged_at, 0.0), 1.0),
            probability_text=text.probability(result.probability, result.judged_at),
            threshold_text=text.probability(result.judged_at),
        )
    return Verdict(tone, title, explanation, gauge, _figures(result), _statements(result))


def _words(result: SlideResult) -> tuple[Tone, str, str]:
    positive, threshold = _positive(result), text.probability(result.judged_at)
    reason = text.visible(result.reason)
    if result.verdict == "failed":
        return "failed", "Analysis failed", reason or "No reason was recorded."
    if result.verdict == "QC rejected":
        return (
            "warning",
            "Rejected by quality control",
            f"{text.sentence(reason or 'see the checks below')}. {_WITHHELD}",
        )
    if result.verdict == "no tissue":
        return "neutral", "No tissue found", reason or "No window was scored, so there is no probability."
    if result.label == "positive":
        return (
            "positive",
            f"Positive: {positive}",
            f"The slide's probability is at or above the threshold of {threshold}.",
        )
    if result.label == "negative":
        return (
            "negative",
            f"Negative: {positive} below threshold",
            f"The slide's probability is below the threshold of {threshold}.",
        )
    return "neutral", "No label", reason or "The slide was read, but it has no probability."


def _figures(result: SlideResult) -> tuple[Fact, ...]:
    if result.verdict != "done":
        return ()
    figures = [Fact("Probability", text.probability(result.probability, result.judged_at))]
    if result.map == "probability":
        figures.append(Fact("Regions", text.count(len(result.regions))))
    else:
        figures += [
            Fact(text.visible(name), text.probability(value))
            for name, value in result.class_probabilities.items()
            if name != result.model.positive
        ]
    if result.slide.spacing_um is not None:
        if result.regions:
            figures.append(Fact("Longest region", text.length_mm(max(r.length_mm for r in result.regions))))
        if result.tissue is not None:
            figures.append(Fact("Tissue", text.area_mm2(result.tissue.area_mm2)))
    return tuple(figures)


def _statements(result: SlideResult) -> tuple[Fact, ...]:
    if result.verdict != "done":
        return ()
    calibration = text.visible(result.model.calibration).strip() or "uncalibrated"
    if calibration.lower().startswith("uncalibrated"):
        calibration += " – the figure orders slides by suspicion; it is not the chance of disease"
    elif result.map == "probability":
        # A map's cells were calibrated; the slide's figure is the highest of many of them, or a slide model's.
        calibration += " – of the windows; the slide's figure orders slides by suspicion"
    statements = [Fact("Calibration", calibration)]
    if result.score_rule:
        statements.append(Fact("Slide score", text.visible(result.score_rule)))
    return tuple(statements)


# --- 3. the overview -----------------------------------------------------------------------------------------------


def _overview(result: SlideResult, folder: Path) -> Overview | None:
    if "thumbnail" not in result.images:
        return None
    name = text.visible(result.slide.name)
    thumbnail = load_picture(folder, result.images["thumbnail"], f"Overview of {name}")
    heatmap = None
    if "heatmap" in result.images and result.verdict == "done":
        what = "Attention" if result.map == "attention" else f"Probability of {_positive(result)}"
        alt = f"{what} over {name}"
        heatmap = load_picture(folder, result.images["heatmap"], alt)
        if (heatmap.width, heatmap.height) != (thumbnail.width, thumbnail.height):
            raise StoreError(
                f"{folder / result.images['heatmap']}: {heatmap.width} × {heatmap.height} px, but the thumbnail is "
                f"{thumbnail.width} × {thumbnail.height} px; both must show the same extent"
            )
    rows, columns = result.slide.shape
    outlines = result.images.get("outlines", OUTLINES)
    regions = result.regions if heatmap is not None else ()
    rings = load_outlines(folder, outlines, (rows, columns)) if regions else ()
    scale, extent = None, f"{columns} × {rows} px"
    if result.slide.spacing_um is not None:
        height_um, width_um = (
            n * s for n, s in zip(result.slide.shape, result.slide.spacing_um, strict=True)
        )
        scale = bar_for(width_um, 0.25)
        extent = f"{width_um / 1000:.2f} × {height_um / 1000:.2f} mm"
    marks = tuple(_mark(region, result) for region in regions[:TABLE_ROWS])
    title = "Attention" if result.map == "attention" else "Heatmap"
    return Overview(thumbnail, heatmap, rings, marks, scale, extent, title, _MAP_NOTES[result.map])


def _mark(region: Region, result: SlideResult) -> Mark:
    """The number marks the highest probability, where the region's picture is centred."""
    y, x = (place / size for place, size in zip(region.peak, result.slide.shape, strict=True))
    return Mark(region.id, round(x, 5), round(y, 5), region.crop is not None)


# --- 4. and 5. regions and measurements ----------------------------------------------------------------------------


def _card(region: Region, result: SlideResult, folder: Path) -> RegionCard:
    assert region.crop is not None, "cards are made for regions with a picture"
    alt = f"Region {region.id} at high power"
    picture = load_picture(folder, region.crop, alt)
    scale = None
    if result.slide.spacing_um is not None and region.crop_width_um:
        scale = bar_for(region.crop_width_um, 0.3)
    facts = [
        Fact("Score", text.probability(region.score)),
        Fact("Mean", text.probability(region.mean_probability)),
    ]
    if region.spread is not None:
        facts.append(Fact("Spread at peak", text.probability(region.spread)))
    if result.slide.spacing_um is not None:
        facts += [
            Fact("Longest", text.length_mm(region.length_mm)),
            Fact("Area", text.area_mm2(region.area_mm2)),
        ]
    facts += _position(region, result)
    return RegionCard(
        region.id,
        text.probability(region.max_probability),
        picture,
        scale,
        tuple(facts),
        _beyond(region, result),
    )


def _beyond(region: Region, result: SlideResult) -> str:
    """What to say of a picture that leaves the slide, where nothing was scanned and the reader fills up with white."""
    if result.slide.spacing_um is None or not region.crop_width_um:
        return ""
    reach = region.crop_width_um / 2
    sizes = zip(region.peak, result.slide.shape, result.slide.spacing_um, strict=True)
    # A pixel of the slide at the edge is rounding, and no one sees it.
    leaves = any(min(peak, size - peak) * spacing + spacing < reach for peak, size, spacing in sizes)
    return "White beyond the slide's edge: nothing was scanned there." if leaves else ""


def _position(region: Region, result: SlideResult) -> list[Fact]:
    """Where the peak lies, from the slide's top left corner: in mm for the stage, in pixels (x, y) for a viewer."""
    row, column = region.peak
    facts = []
    if result.slide.spacing_um is not None:
        down, right = (p * s / 1000 for p, s in zip(region.peak, result.slide.spacing_um, strict=True))
        facts.append(Fact("From top left", f"right {right:.2f}, down {down:.2f} mm"))
    facts.append(Fact("Level-0 pixel", f"x {column:.0f}, y {row:.0f}"))
    return facts


def _cards_note(result: SlideResult, shown: int) -> str:
    if result.verdict != "done" or result.map != "probability":
        return ""
    if not result.regions:
        return f"No region reaches the threshold of {text.probability(result.threshold)}."
    note = "Each picture is centred on the region's highest probability."
    if shown < len(result.regions):
        note = f"{shown} of {text.plural(len(result.regions), 'region')} shown, highest score first. {note}"
    return note


def _measures(result: SlideResult) -> tuple[Fact, ...]:
    if result.slide.spacing_um is None:
        return ()
    facts = []
    if result.tissue is not None:
        facts += [
            Fact("Tissue area", text.area_mm2(result.tissue.area_mm2)),
            Fact("Tissue share of the slide", f"{100 * result.tissue.share:.1f} %"),
        ]
    if result.heatmap is not None and result.verdict == "done":
        facts.append(Fact("Heatmap cell", f"{result.heatmap.stride_um:g} µm"))
        if result.map == "probability":
            facts.append(Fact("Regions at or above threshold", text.count(len(result.regions))))
    return tuple(facts)


def _measures_note(result: SlideResult) -> str:
    spacing = result.slide.spacing_um
    if spacing is None:
        return (
            "Lengths and areas are refused: the file states no pixel spacing and none was supplied. "
            "Positions are given in level-0 pixels."
        )
    said = text.spacing(spacing)
    if result.slide.spacing_origin == "supplied":
        return f"Pixel spacing {said}, supplied by the user, not read from the file. All lengths and areas rest on it."
    return f"Pixel spacing {said}, read from the file."


def _region_table(result: SlideResult) -> Grid | None:
    if not result.regions or result.verdict != "done":
        return None
    physical = result.slide.spacing_um is not None
    columns: tuple[str, ...] = ("Region", "Score", "Highest", "Mean")
    columns += ("Longest", "Area", "From top left") if physical else ("Level-0 pixel (x, y)",)
    rows = tuple(_region_row(region, result, physical) for region in result.regions[:TABLE_ROWS])
    hidden = len(result.regions) - len(rows)
    note = f"{text.plural(hidden, 'further region')} in {OUTLINES} and {RESULT}." if hidden else ""
    return Grid(columns, (False,) + (True,) * (len(columns) - 1), rows, note)


def _region_row(region: Region, result: SlideResult, physical: bool) -> tuple[str, ...]:
    scores = (region.score, region.max_probability, region.mean_probability)
    row = (str(region.id), *(text.probability(score) for score in scores))
    place = _position(region, result)[0].value
    if not physical:
        return (*row, place)
    return (*row, text.length_mm(region.length_mm), text.area_mm2(region.area_mm2), place)


# --- 6. quality control --------------------------------------------------------------------------------------------


def check_of(measure: QcMeasure) -> Check:
    """A stored measure in print."""
    return Check(
        text.sentence(text.visible(measure.name)),
        text.quantity(measure.value, text.visible(measure.unit)),
        text.comparison(text.visible(measure.limit)),
        measure.ok,
        text.visible(measure.meaning),
    )


def _checks(result: SlideResult) -> tuple[Check, ...]:
    checks = [check_of(measure) for measure in result.qc]
    if result.heatmap is not None:
        unread, windows = result.heatmap.unread, result.heatmap.windows
        value = f"{text.count(unread)} of {text.count(windows)}"
        if unread:
            value += f" ({text.share(unread, windows)})"
        checks.append(
            Check(
                "Unread windows",
                value,
                "0",
                unread == 0,
                "Windows that could not be decoded; blank in the heatmap.",
            )
        )
    return tuple(checks)

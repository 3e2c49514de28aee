"""From a scan's result folder to the `ScanReport`. Nothing is measured here: stored figures are put into words."""

from __future__ import annotations

from pathlib import Path

from medvision.report import format as text
from medvision.report.build import RESULT, RUN, check_of, read_record
from medvision.report.callouts import Callout, Rect, place_labels
from medvision.report.dicom_sr import FINDINGS_SR
from medvision.report.model import (
    Check,
    Fact,
    FindingCard,
    Grid,
    Projection,
    ScanReport,
    Tone,
    Verdict,
)
from medvision.report.pictures import Picture, ScaleBar, bar_for, load_picture
from medvision.report.planes import VIEWS
from medvision.report.provenance import scan_provenance
from medvision.store.records import RunRecord
from medvision.store.scan_records import Finding, NoduleResult

TABLE_ROWS = 40
"""Findings listed; a scan with more refers to the files, which hold all."""

_FLATTEST = 0.15
"""Height by width below which a scan seen from the side is a line that shows nothing."""
_BAR_PX, _LETTER_PX = 60.0, 16.0
"""Of a projection, beside the scale bar and about a letter at its edge, where no number is put."""
_SIZES = {"segmentation": "measured", "detector": "detector’s box"}


def build_scan_report(folder: Path) -> ScanReport:
    """The report of the scan whose result lies in `folder`.

    Raises:
        StoreError: if `result.json` or `run.json` is missing or of another schema version, or a picture that the result
            names is missing or broken.
    """
    result = read_record(folder / RESULT, NoduleResult)
    run = read_record(folder / RUN, RunRecord)
    name = text.visible(result.scan.name)
    cards = tuple(_card(one, folder) for one in result.findings if one.crops)
    views = _projections(result, folder)
    models = " and ".join(f"{net.name} {net.version}".strip() for net in result.models)
    return ScanReport(
        title=f"{name} – scan report",
        scan=name,
        subtitle=(text.visible(f"Models {models}"), text.visible(f"Searched {run.finished_utc}")),
        verdict=_verdict(result),
        projections=views,
        projections_note=_projections_note(views, len(result.findings)),
        cards=cards,
        cards_note=_cards_note(result, len(cards)),
        measures=_measures(result),
        measures_note=_measures_note(result, (folder / FINDINGS_SR).is_file()),
        table=_table(result),
        figures=_figures(result),
        checks=_checks(result),
        warnings=tuple(text.visible(one) for one in (*run.warnings, *result.scan.notes)),
        provenance=scan_provenance(result, run),
        limits=tuple(text.visible(limit) for limit in result.limits),
    )


def _verdict(result: NoduleResult) -> Verdict:
    if result.verdict != "done":
        title = "Rejected by quality control" if result.verdict == "QC rejected" else "Search failed"
        return Verdict("warning", title, f"{text.sentence(text.visible(result.reason))}.", None, (), ())
    threshold = text.probability(result.threshold)
    count = len(result.findings)
    tone: Tone = "positive" if count else "negative"
    if count:
        title = text.plural(count, "finding")
        said = f"{'Candidate' if count == 1 else 'Candidates'} whose score is at or above the threshold of {threshold}."
    else:
        title = "No finding"
        highest = result.highest
        said = (
            "No candidate was found."
            if highest is None
            else f"The highest score, {text.probability(highest, result.threshold)}, is below the threshold of "
            f"{threshold}."
        ) + " That does not mean that there is no nodule."
    return Verdict(tone, title, said, None, _verdict_figures(result), _statements(result))


def _verdict_figures(result: NoduleResult) -> tuple[Fact, ...]:
    figures = []
    if result.highest is not None:
        figures.append(Fact("Highest score", text.probability(result.highest, result.threshold)))
    if result.findings:
        largest = max(result.findings, key=lambda one: one.diameter_mm)
        figures.append(Fact("Largest", f"{largest.diameter_mm:.1f} mm"))
    figures.append(Fact("Candidates", text.count(result.candidates)))
    return tuple(figures)


def _statements(result: NoduleResult) -> tuple[Fact, ...]:
    judge = result.models[-1]
    calibration = text.visible(judge.calibration).strip() or "uncalibrated"
    if calibration.lower().startswith("uncalibrated"):
        calibration += " – scores order candidates; they are not chances"
    score = (
        "the detector’s"
        if judge.role == "detector"
        else "the probability that the reduction of false positives gives"
    )
    return (Fact("Score", score), Fact("Calibration", calibration))


def _projections(result: NoduleResult, folder: Path) -> tuple[Projection, ...]:
    scan = result.scan
    found = []
    planes, rows, columns = scan.shape
    for view, key, across, wide in (
        ("From the front", "frontal", 2, columns),
        ("From the left", "lateral", 1, rows),
    ):
        width_mm, height_mm = wide * scan.spacing_mm[across], planes * scan.spacing_mm[0]
        if key not in result.images or height_mm < width_mm * _FLATTEST:
            continue
        picture = load_picture(folder, result.images[key], f"{view}: {text.visible(scan.name)}")
        scale = bar_for(1000 * width_mm, 0.3)
        letters = ("R", "L") if key == "frontal" else ("A", "P")
        caption = f"{view}, {width_mm:.0f} × {height_mm:.0f} mm"
        spots = [
            Callout(
                one.id,
                round(min(max(one.voxel[across] / wide, 0.0), 1.0) * picture.width, 2),
                round(min(max(1 - one.voxel[0] / planes, 0.0), 1.0) * picture.height, 2),
                bool(one.crops),
            )
            for one in result.findings
        ]
        found.append(Projection(key, caption, picture, _numbered(spots, picture, scale), scale, letters))
    return tuple(found)


def _numbered(spots: list[Callout], picture: Picture, scale: ScaleBar) -> tuple[Callout, ...]:
    """The spots with numbers beside the most certain ones, which keep clear of the scale bar and the edges' letters."""
    width, height = picture.width, picture.height
    middle = height / 2
    taken: list[Rect] = [
        (0.0, height - _BAR_PX, scale.fraction * width + _BAR_PX, float(height)),
        (0.0, middle - _LETTER_PX, 2 * _LETTER_PX, middle + _LETTER_PX),
        (width - 2 * _LETTER_PX, middle - _LETTER_PX, float(width), middle + _LETTER_PX),
    ]
    return place_labels(spots, (width, height), taken, TABLE_ROWS)


def _projections_note(views: tuple[Projection, ...], findings: int) -> str:
    note = "Means of the whole scan along the line of sight, like a radiograph, for orientation"
    if not findings:
        return f"{note}."
    numbered = min((sum(mark.label is not None for mark in view.marks) for view in views), default=findings)
    note += "; each spot is a finding, and its number that of the lists below."
    if numbered == findings:
        return note
    return f"{note} Of {findings} findings the most certain are numbered here, as far as there is room."


def _card(finding: Finding, folder: Path) -> FindingCard:
    pictures = tuple(
        load_picture(folder, finding.crops[view], f"Finding {finding.id}, {view} plane") for view in VIEWS
    )
    x, y, z = finding.world
    plane, row, column = finding.voxel
    facts = [
        Fact("Diameter", f"{finding.diameter_mm:.1f} mm ({_SIZES[finding.size_from]})"),
        Fact("Size band", text.visible(finding.size_band)),
        Fact("Lung", finding.side or "not told"),
    ]
    if finding.long_mm is not None and finding.short_mm is not None:
        facts.append(Fact("Long × short axis", f"{finding.long_mm:.1f} × {finding.short_mm:.1f} mm"))
    if finding.volume_mm3 is not None and finding.mean_hu is not None:
        facts += [
            Fact("Volume", f"{finding.volume_mm3:,.0f} mm³"),
            Fact("Mean value", f"{_signed(finding.mean_hu)} HU"),
        ]
    facts += [
        Fact("Detector", f"{text.probability(finding.detector_score)}, {finding.detector_mm:.1f} mm"),
        Fact("LPS, mm", f"{_signed(x, 1)}, {_signed(y, 1)}, {_signed(z, 1)}"),
        Fact("Plane, row, column", f"{plane:.0f}, {row:.0f}, {column:.0f}"),
    ]
    return FindingCard(
        number=finding.id,
        score=text.probability(finding.score),
        pictures=pictures,
        captions=tuple(view.capitalize() for view in VIEWS),
        scale=bar_for(1000 * finding.crop_mm, 0.3),
        facts=tuple(facts),
    )


def _cards_note(result: NoduleResult, shown: int) -> str:
    if not shown:
        return ""
    more = f" The {shown} most certain of {len(result.findings)}." if shown < len(result.findings) else ""
    return (
        "Lung window (−1000 to 400 HU). Axial planes are seen from the feet, coronal ones from the front, sagittal "
        f"ones from the patient’s left. The cross leaves open what it points at.{more}"
    )


def _measures(result: NoduleResult) -> tuple[Fact, ...]:
    lungs = result.lungs
    sides = ", ".join(f"{side} {volume:,.0f} ml" for side, volume in sorted(lungs.by_side_ml.items()))
    return (
        Fact("Lungs", f"{lungs.volume_ml:,.0f} ml" if lungs.count else "none found"),
        *((Fact("By side", sides),) if sides else ()),
        Fact("Windows", text.count(result.windows)),
    )


def _measures_note(result: NoduleResult, as_sr: bool) -> str:
    bands = (
        "Size bands are those of Lung-RADS 2022 for solid nodules at a first screening, as information. The diameter "
        "is the mean of long and short axis in the axial plane in which the finding is largest; where a finding could "
        "not be segmented, that of the detector’s box. "
    )
    files = "candidates.csv holds every candidate in LUNA16’s format, findings.geojson the findings in millimetres"
    files += f", {FINDINGS_SR} the same as a DICOM structured report." if as_sr else "."
    return (bands if result.findings else "") + files


def _table(result: NoduleResult) -> Grid | None:
    if not result.findings:
        return None
    rows = tuple(
        (
            str(one.id),
            text.probability(one.score),
            one.side or "–",
            f"{one.diameter_mm:.1f}",
            _SIZES[one.size_from],
            text.visible(one.size_band),
            *(_signed(value, 1) for value in one.world),
        )
        for one in result.findings[:TABLE_ROWS]
    )
    left = len(result.findings) - len(rows)
    return Grid(
        (
            "Finding",
            "Score",
            "Lung",
            "Diameter, mm",
            "Size from",
            "Size band",
            "x (left)",
            "y (back)",
            "z (up)",
        ),
        (True, True, False, True, False, False, True, True, True),
        rows,
        f"{left} more are in result.json." if left else "",
    )


def _figures(result: NoduleResult) -> Grid | None:
    rows = tuple(
        (
            net.role.capitalize(),
            name.upper() if name in ("auc", "cpm") else text.sentence(text.visible(name.replace("_", " "))),
            f"{one.value:.3f}",
            "not estimated" if one.interval is None else f"{one.interval[0]:.3f} – {one.interval[1]:.3f}",
            text.visible(one.protocol),
        )
        for net in result.models
        for name, one in net.figures.items()
    )
    columns = ("Model", "Measure", "Value", "95% interval", "Protocol")
    return Grid(columns, (False, False, True, True, False), rows) if rows else None


def _checks(result: NoduleResult) -> tuple[Check, ...]:
    checks = [check_of(measure) for measure in result.qc]
    if result.verdict == "done":
        value = f"{text.count(result.unread)} of {text.count(result.windows)}"
        meaning = "Windows of the detector that could not be decoded: nothing was looked for there."
        checks.append(Check("Unread windows", value, "0", result.unread == 0, meaning))
    return tuple(checks)


def _signed(value: float, digits: int = 0) -> str:
    return f"{value:.{digits}f}".replace("-", "−")

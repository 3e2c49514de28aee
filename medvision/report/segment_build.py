"""From the folder of what was segmented to the `SegmentReport`. Nothing is measured: figures are put into words."""

from __future__ import annotations

from pathlib import Path

from medvision.report import format as text
from medvision.report.build import RESULT, RUN, check_of, read_record
from medvision.report.model import Fact, Grid, LegendEntry, SegmentPanel, SegmentReport, Verdict
from medvision.report.pictures import bar_for, load_picture
from medvision.report.planes import VIEWS
from medvision.report.provenance import segment_provenance
from medvision.store.records import RunRecord
from medvision.store.segment_records import ClassTotal, PartInfo, SegmentResult

_FILES = {
    "mask": "labels of all pixels, as numbered in the table",
    "outlines": "outlines of the parts, in pixels of the file (QuPath)",
    "parts": "one line for each connected part, or object",
    "objects": "numbers of the objects, which were told apart where they touch",
}


def build_segment_report(folder: Path) -> SegmentReport:
    """The report of what was segmented into `folder`.

    Raises:
        StoreError: if `result.json` or `run.json` is missing or of another schema version, or a picture that the result
            names is missing or broken.
    """
    result = read_record(folder / RESULT, SegmentResult)
    run = read_record(folder / RUN, RunRecord)
    name = text.visible(result.case.name)
    model = f"{result.model.name} {result.model.version}".strip()
    return SegmentReport(
        title=f"{name} – segmentation",
        case=name,
        kicker=f"Segmentation of {'an image' if result.case.kind == 'image' else f'a {result.case.kind}'}",
        subtitle=(text.visible(f"Model {model}"), text.visible(f"Segmented {run.finished_utc}")),
        verdict=_verdict(result),
        panels=_panels(result, folder),
        panels_note=_panels_note(result),
        legend=tuple(LegendEntry(text.visible(one.name), one.colour, _amount(one)) for one in result.classes),
        classes=_classes(result),
        parts=_parts(result),
        files=tuple(Fact(text.visible(file), _FILES[what]) for what, file in sorted(result.files.items())),
        figures=_figures(result),
        figures_none=(
            "The model’s contract holds no figure of how good it is."
            if result.model.digest
            else "A method without a network: nothing says how good it is on images like this one."
        ),
        checks=tuple(check_of(measure) for measure in result.qc),
        warnings=tuple(text.visible(one) for one in (*run.warnings, *result.case.notes)),
        provenance=segment_provenance(result, run),
        limits=tuple(text.visible(limit) for limit in result.limits),
    )


def _verdict(result: SegmentResult) -> Verdict:
    found = [one for one in result.classes if one.pixels]
    if found:
        title = ", ".join(
            f"{text.visible(one.name)} {_amount(one)}" for one in sorted(found, key=lambda c: -c.pixels)[:3]
        )
        parts = text.plural(result.parts, "object" if "objects" in result.files else "connected part")
        said = f"{parts} of {text.count(len(found))} {'class' if len(found) == 1 else 'classes'}."
    else:
        title = "Nothing but background"
        said = f"No pixel is of {' or '.join(text.visible(one.name) for one in result.classes)}."
    calibration = text.visible(result.model.calibration).strip() or "uncalibrated"
    if calibration.lower().startswith("uncalibrated"):
        calibration += " – probabilities order pixels; they are not chances"
    statements = [Fact("Calibration", calibration)]
    if result.tiling is not None and result.tiling.windows > 1:
        statements.append(
            Fact(
                "Windows",
                "the result is that of one run over the whole"
                if result.tiling.exact
                else "blended: near the edges of windows the result differs from one run over the whole",
            )
        )
    figures = []
    if result.confidence is not None:
        figures.append(Fact("Mean probability of the labels", text.probability(result.confidence)))
    return Verdict("neutral", text.sentence(title), said, None, tuple(figures), tuple(statements))


def _amount(one: ClassTotal) -> str:
    if one.volume_ml is not None:
        return f"{one.volume_ml:.4g} ml" if one.volume_ml >= 0.1 else f"{1000 * one.volume_ml:.4g} mm³"
    if one.area_mm2 is not None:
        return text.area_mm2(one.area_mm2) if one.area_mm2 >= 0.01 else f"{1e6 * one.area_mm2:,.4g} µm²"
    return f"{text.count(one.pixels)} px"


def _panels(result: SegmentResult, folder: Path) -> tuple[SegmentPanel, ...]:
    name = text.visible(result.case.name)
    if result.views:
        return tuple(
            SegmentPanel(
                view,
                view.capitalize(),
                load_picture(folder, result.images[view], f"{view} plane of {name}"),
                load_picture(folder, result.images[f"{view}-classes"], f"classes in the {view} plane"),
                bar_for(1000 * result.views[view], 0.3),
            )
            for view in VIEWS
        )
    if "thumbnail" not in result.images:
        return ()
    picture = load_picture(folder, result.images["thumbnail"], name)
    classes = load_picture(folder, result.images["heatmap"], f"classes of {name}")
    scale = None if result.picture_width is None else bar_for(result.picture_width, 0.3)
    rows, columns = result.case.shape
    return (SegmentPanel("whole", f"{columns:,} × {rows:,} px", picture, classes, scale),)


def _panels_note(result: SegmentResult) -> str:
    if not result.views:
        return "Areas are see-through, their edges are not. The mask holds every pixel; the picture may be smaller."
    return (
        "Planes through the middle of the largest part. Axial planes are seen from the feet, coronal ones from the "
        "front, sagittal ones from the patient’s left."
    )


def _classes(result: SegmentResult) -> Grid:
    volume = result.case.kind == "volume"
    size = "Volume" if volume else "Area"
    rows = tuple(
        (
            str(one.label),
            text.visible(one.name),
            _amount(one),
            text.share(one.share, 1.0),
            text.count(one.pixels),
            text.count(one.parts),
            text.count(one.largest),
        )
        for one in result.classes
    )
    pixels = "Voxels" if volume else "Pixels"
    return Grid(
        ("Label", "Class", size, "Share", pixels, "Parts", "Largest part"),
        (True, False, True, True, True, True, True),
        rows,
        (
            "A part is an object, told apart from those that it touches. "
            if "objects" in result.files
            else "A part is what hangs together by sides of pixels. "
        )
        + "What is not listed is background, label 0.",
    )


def _parts(result: SegmentResult) -> Grid | None:
    if not result.largest:
        return None
    volume = result.case.kind == "volume"
    rows = tuple(
        (
            str(one.id),
            text.visible(one.name),
            _size(one),
            *(f"{v:,.0f}" for v in one.centroid),
            "–" if one.probability is None else text.probability(one.probability),
        )
        for one in result.largest
    )
    places = ("Plane", "Row", "Column") if volume else ("Row", "Column")
    left = result.parts - len(rows)
    return Grid(
        ("Part", "Class", "Volume" if volume else "Area", *places, "Mean probability"),
        (True, False, True, *(True for _ in places), True),
        rows,
        f"The largest parts; {text.count(left)} more are in {result.files.get('parts', 'the table')}."
        if left
        else "",
    )


def _size(one: PartInfo) -> str:
    if one.volume_mm3 is not None:
        return f"{one.volume_mm3:,.4g} mm³" if one.volume_mm3 < 1000 else f"{one.volume_mm3 / 1000:,.4g} ml"
    if one.area_um2 is not None:
        return f"{one.area_um2:,.4g} µm²" if one.area_um2 < 1e4 else text.area_mm2(one.area_um2 / 1e6)
    return f"{text.count(one.pixels)} px"


def _figures(result: SegmentResult) -> Grid | None:
    rows = tuple(
        (
            text.sentence(text.visible(name.replace("_", " "))),
            f"{one.value:.3f}",
            "not estimated" if one.interval is None else f"{one.interval[0]:.3f} – {one.interval[1]:.3f}",
            text.visible(one.protocol),
        )
        for name, one in result.model.figures.items()
    )
    return (
        Grid(("Measure", "Value", "95% interval", "Protocol"), (False, True, True, False), rows)
        if rows
        else None
    )

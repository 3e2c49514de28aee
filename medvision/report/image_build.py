"""From an image's result folder to the `ImageReport`. Nothing is measured here: stored figures are put into words."""

from __future__ import annotations

from pathlib import Path

from medvision.report import format as text
from medvision.report.build import RESULT, RUN, check_of, read_record
from medvision.report.model import Fact, Grid, ImageReport, Overview, ProbabilityBar, Tone, Verdict
from medvision.report.pictures import colour_stops, load_colours, load_picture
from medvision.report.provenance import image_provenance
from medvision.store.image_records import UNLIKE, ImageResult, SaliencyInfo
from medvision.store.records import RunRecord

MOST_BARS = 12
"""Classes drawn; a model with more refers to the result's file, which holds all."""

_METHODS = {"gradcam": "Grad-CAM", "occlusion": "Occlusion test"}
_MAP_NOTES = {
    "gradcam": (
        "Where the network's last feature maps speak for the class (Selvaraju et al. 2017), as a share of the largest "
        "value in this image. It is no probability, and colours of two images cannot be compared."
    ),
    "occlusion": (
        "How much the probability of the class drops where a blank square hides the image (Kermany et al. 2018). What "
        "drops by less than a tenth of the largest drop is left uncoloured."
    ),
}


def build_image_report(folder: Path) -> ImageReport:
    """The report of the image whose result lies in `folder`.

    Raises:
        StoreError: if `result.json` or `run.json` is missing or of another schema version, or a picture that the result
            names is missing or broken.
    """
    result = read_record(folder / RESULT, ImageResult)
    run = read_record(folder / RUN, RunRecord)
    overview = _overview(result, folder)
    colours = load_colours(folder, result.images.get("colours"), overview.heatmap)
    name = text.visible(result.image.name)
    model = f"{result.model.name} {result.model.version}".strip()
    bars, bars_note = _bars(result)
    return ImageReport(
        title=f"{name} – image report",
        image=name,
        subtitle=(text.visible(f"Model {model}"), text.visible(f"Classified {run.finished_utc}")),
        verdict=_verdict(result),
        bars=bars,
        bars_note=bars_note,
        figures=_figures(result),
        figures_note=_figures_note(result),
        overview=overview,
        colours=colour_stops(colours),
        checks=tuple(check_of(measure) for measure in result.qc),
        warnings=tuple(text.visible(warning) for warning in run.warnings),
        provenance=image_provenance(result, run),
        limits=tuple(text.visible(limit) for limit in result.limits),
    )


def _verdict(result: ImageResult) -> Verdict:
    predicted = text.visible(result.predicted)
    chance = text.probability(result.probabilities[result.predicted])
    if result.in_scope is False:
        title = "Unlike the training images"
        why = text.sentence(text.visible(result.reason.removeprefix(UNLIKE)))
        said = f"{why}. The network's answer, {predicted} with {chance}, is for other images and should not be used."
        return Verdict("warning", title, said, None, (), _statements(result))
    tone: Tone = "neutral"
    if result.model.positive is not None:
        tone = "positive" if result.predicted == result.model.positive else "negative"
    said = f"The class of the highest probability, {chance}, of {len(result.model.classes)}."
    return Verdict(tone, predicted, said, None, (), _statements(result))


def _statements(result: ImageResult) -> tuple[Fact, ...]:
    calibration = text.visible(result.model.calibration).strip() or "uncalibrated"
    if calibration.lower().startswith("uncalibrated"):
        calibration += " – the figures order classes; they are not chances"
    scope = {
        True: "like those of the training, by every bound below",
        False: "unlike those of the training",
        None: "not known: the model does not say what its training images were like",
    }[result.in_scope]
    return (Fact("Calibration", calibration), Fact("Image", scope))


def _bars(result: ImageResult) -> tuple[tuple[ProbabilityBar, ...], str]:
    """The classes in the contract's order, or the most probable ones of many."""
    names = list(result.probabilities)
    if len(names) > MOST_BARS:
        names = sorted(names, key=lambda name: -result.probabilities[name])[:MOST_BARS]
    bars = tuple(
        ProbabilityBar(
            name=text.shortened(text.visible(name), 28),
            probability=min(max(result.probabilities[name], 0.0), 1.0),
            text=text.probability(result.probabilities[name]),
            named=name == result.predicted,
        )
        for name in names
    )
    left = len(result.probabilities) - len(names)
    return bars, f"The {MOST_BARS} most probable of {len(result.probabilities)} classes." if left else ""


def _figures(result: ImageResult) -> Grid | None:
    if not result.model.figures:
        return None
    rows = tuple(
        (
            "AUC" if name == "auc" else text.sentence(text.visible(name.replace("_", " "))),
            f"{one.value:.3f}",
            "not estimated" if one.interval is None else f"{one.interval[0]:.3f} – {one.interval[1]:.3f}",
            text.visible(one.protocol),
        )
        for name, one in result.model.figures.items()
    )
    return Grid(("Measure", "Value", "95% interval", "Protocol"), (False, True, True, False), rows)


def _figures_note(result: ImageResult) -> str:
    return "" if result.model.figures else "The model's contract holds no figure of how good it is."


def _overview(result: ImageResult, folder: Path) -> Overview:
    name = text.visible(result.image.name)
    thumbnail = load_picture(folder, result.images["thumbnail"], name)
    rows, columns = result.image.shape
    heatmap, title, note, ticks = None, "", "", Overview.ticks
    saliency = result.saliency
    if saliency is not None and "heatmap" in result.images:
        title = f"{_METHODS[saliency.method]}: {text.visible(saliency.class_name)}"
        heatmap = load_picture(folder, result.images["heatmap"], f"{title} over {name}")
        note = f"{_MAP_NOTES[saliency.method]} {text.sentence(text.visible(saliency.detail))}."
        ticks = _ticks(saliency)
    return Overview(
        thumbnail=thumbnail,
        heatmap=heatmap,
        outlines=(),
        marks=(),
        scale=None,
        extent=f"{columns} × {rows} px",
        map_title=title,
        map_note=note,
        what="Image",
        ticks=ticks,
    )


def _ticks(saliency: SaliencyInfo) -> tuple[tuple[float, str], ...]:
    """Drops of a probability in figures; shares of the largest value as they are."""
    if saliency.method == "gradcam":
        return Overview.ticks
    return tuple((place, f"{place * saliency.scale:.2g}") for place, _ in Overview.ticks)

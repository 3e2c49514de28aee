"""CAMELYON16: which slides hold metastases (AUC), and where (lesion FROC).

Ehteshami Bejnordi et al., "Diagnostic assessment of deep learning algorithms for detection of lymph node metastases in
women with breast cancer", JAMA 2017. Nothing here is specific to the challenge's slides: any slides with outlines of
their tumour, the demo's included, are judged in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvision.core.errors import SpacingError, UsageError
from medvision.core.geometry import Box
from medvision.core.results import Score
from medvision.evaluations.base import Evaluation, Published, register
from medvision.evaluations.predictions import SlidePrediction, predicted_slides, read_predictions
from medvision.evaluations.truth import SlideTruth, read_mask, read_truth
from medvision.metrics.froc import CaseHits, Froc, Protocol, froc
from medvision.metrics.lesions import PIXEL_UM, Lesions, growth_px, label_lesions, score_detections
from medvision.metrics.ranking import RocCurve, bootstrap_interval, roc_auc, roc_curve
from medvision.ops.rasterise import bounding_box, rasterise

PUBLISHED = (
    Published("Wang et al. 2016, challenge winner", {"auc": 0.925, "froc": 0.7051}, "arXiv:1606.05718"),
    Published("Best challenge entry", {"auc": 0.994, "froc": 0.807}, "JAMA 2017;318(22):2199"),
    Published("Pathologist without time limit", {"auc": 0.966, "froc": 0.733}, "arXiv:1606.05718"),
    Published("NCRF, Li and Ping 2018", {"froc": 0.8096}, "arXiv:1806.07064"),
    Published("Liu et al. 2017", {"sensitivity at 8 FP": 0.924}, "arXiv:1703.02442"),
    Published("LYNA, Liu et al. 2018", {"auc": 0.99}, "Arch Pathol Lab Med 2019;143(7):859"),
    Published("PFA-ScanNet 2019", {"froc": 0.902}, "MICCAI 2019"),
    Published("MONAI pathology bundle", {"froc": 0.72}, "MONAI model zoo"),
)
FEW_SLIDES = 30


@dataclass(frozen=True, slots=True)
class SlideScore:
    """What became of one slide. `found` of `lesions` were hit by any detection; `isolated` lesions do not count."""

    slide: str
    tumour: bool
    probability: float | None
    detections: int
    false_positives: int
    lesions: int
    found: int
    isolated: int


@dataclass(frozen=True, eq=False)
class Camelyon16Result:
    """The benchmark's figures. `auc` and `roc` are None where slide scores or a class are missing; `notes` say so."""

    protocol: Protocol
    froc: Froc
    auc: Score | None
    roc: RocCurve | None
    slides: tuple[SlideScore, ...]
    notes: tuple[str, ...]
    resamples: int
    seed: int

    @property
    def detections(self) -> int:
        """Number of detections on all slides."""
        return sum(slide.detections for slide in self.slides)

    @property
    def tumour_slides(self) -> int:
        """Number of slides with tumour."""
        return sum(slide.tumour for slide in self.slides)


def evaluate(
    predictions: Path,
    reference: Path,
    protocol: Protocol = "official",
    spacing_um: float | None = None,
    exclude: Collection[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Camelyon16Result:
    """Score a folder of predictions against a folder of outlines or masks.

    Args:
        predictions: see `medvision.evaluations.predictions.read_predictions`.
        reference: see `medvision.evaluations.truth.read_truth`.
        protocol: "official" repeats the published evaluation, its quirks included; "corrected" leaves them out and
            measures with each slide's own spacing. `docs/evaluate.md` lists the differences.
        spacing_um: level-0 spacing of slides whose predictions do not state it (CAMELYON16: 0.243).
        exclude: slides to leave out, such as test_049 (a duplicate) and test_114 (not exhaustively annotated), or one
            that failed; neither its prediction nor its truth is read.
        resamples: bootstrap draws of slides for the 95% intervals.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: if a slide has truth and no prediction, or the reverse, no slide holds a lesion that counts, a name
            to exclude is unknown, or `spacing_um` is not above 0.
        SpacingError: if the spacing of a slide with tumour is neither stated nor given.
        AnnotationError: if a reference file cannot be read.
    """
    if spacing_um is not None and not 0 < spacing_um < math.inf:
        raise UsageError(f"a slide spacing of {spacing_um:g} um/px; it must be above 0")
    predicted = {p.slide.casefold(): p for p in read_predictions(predictions, exclude)}
    truth = read_truth(reference, predicted_slides(predictions), exclude)
    if missing := [t.slide for key, t in truth.items() if key not in predicted]:
        raise UsageError(
            f"{predictions}: no predictions for {', '.join(missing)}; a slide without detections needs an empty file, "
            "and a slide that failed must be analysed again or excluded by name"
        )
    cases, slides = [], []
    for key, known in truth.items():
        given = predicted[key]
        lesions = find_lesions(known, given, protocol, spacing_um) if known.tumour else None
        hits = score_detections(known.slide, lesions, given.points, given.probabilities)
        cases.append(hits)
        slides.append(_slide_score(hits, known, given))
    curve = froc(cases, protocol, resamples=resamples, seed=seed)
    auc, roc, notes = _rank(slides, resamples, seed)
    notes += _dropped(curve, slides) + [p.note for p in predicted.values() if p.note]
    notes += [f"{name}: left out as asked" for name in sorted(exclude)]
    if len(slides) < FEW_SLIDES:
        notes.append(f"{len(slides)} slides are too few for an interval to say much")
    return Camelyon16Result(protocol, curve, auc, roc, tuple(slides), tuple(notes), resamples, seed)


def find_lesions(
    truth: SlideTruth, prediction: SlidePrediction, protocol: Protocol, spacing_um: float | None
) -> Lesions:
    """Lesions of a slide with tumour.

    The official protocol works on the level nearest to 7.776 um/px, a power of two (32 for CAMELYON16's scanners), and
    takes its pixel for 7.776 um whatever the slide states. The corrected one rasterises outlines at 7.776 um/px of the
    slide's own spacing, and measures a mask by it.

    Raises:
        SpacingError: if the slide's spacing is neither in the prediction nor given.
    """
    spacing = _spacing(truth, prediction, spacing_um)
    official = protocol == "official"
    level = 2.0 ** round(math.log2(PIXEL_UM / math.sqrt(spacing[0] * spacing[1])))
    downsample = (level, level) if official else (PIXEL_UM / spacing[0], PIXEL_UM / spacing[1])
    if truth.mask is not None:
        mask, downsample = read_mask(truth.mask, level, prediction.shape)
        pixel_um = math.sqrt(downsample[0] * spacing[0] * downsample[1] * spacing[1])
        return label_lesions(mask, PIXEL_UM if official else pixel_um, downsample=downsample)
    around = bounding_box(truth.positive, downsample)
    assert around is not None, "a slide with tumour and no mask has outlines"
    margin = growth_px(PIXEL_UM)
    reach = Box(tuple(n - margin for n in around.start), tuple(n + margin for n in around.stop))
    extent = reach.stop
    if prediction.shape is not None:
        extent = tuple(math.ceil(n / d) for n, d in zip(prediction.shape, downsample, strict=True))
    box = reach.intersect(Box((0, 0), tuple(max(0, n) for n in extent)))
    mask = rasterise(truth.positive, box, downsample, truth.excluded)
    return label_lesions(mask, PIXEL_UM, (box.start[0], box.start[1]), downsample)


def _spacing(truth: SlideTruth, prediction: SlidePrediction, given: float | None) -> tuple[float, float]:
    if prediction.spacing_um is not None:
        return prediction.spacing_um
    if given is None:
        raise SpacingError(
            f"{truth.slide}: its predictions state no spacing, so lesions cannot be measured; pass the level-0 spacing "
            "in um/px (CAMELYON16: 0.243)"
        )
    return given, given


def _slide_score(hits: CaseHits, truth: SlideTruth, prediction: SlidePrediction) -> SlideScore:
    return SlideScore(
        slide=truth.slide,
        tumour=truth.tumour,
        probability=prediction.score,
        detections=len(prediction.points),
        false_positives=len(hits.false_positives),
        lesions=len(hits.lesions),
        found=int(np.count_nonzero(~np.isnan(hits.lesions))),
        isolated=hits.ignored,
    )


def _dropped(curve: Froc, slides: Sequence[SlideScore]) -> list[str]:
    """Says how many lesions were found, yet not counted, because the official protocol drops the lowest threshold."""
    lost = sum(slide.found for slide in slides) - round(float(curve.sensitivity.max()) * curve.lesions)
    return (
        [f"the official protocol drops the lowest threshold; lesions found but not counted: {lost}"]
        if lost
        else []
    )


def _rank(
    slides: Sequence[SlideScore], resamples: int, seed: int
) -> tuple[Score | None, RocCurve | None, list[str]]:
    """Slide AUC with its bootstrap interval, the curve, and why there is none where there is none."""
    if unscored := [slide.slide for slide in slides if slide.probability is None]:
        return None, None, [f"no slide AUC: {len(unscored)} of {len(slides)} slides have no slide score"]
    labels = np.array([slide.tumour for slide in slides])
    scores = np.array([slide.probability for slide in slides], dtype=np.float64)
    if labels.all() or not labels.any():
        return None, None, [f"no slide AUC: all {len(slides)} slides are of one class"]
    notes, interval = [], None
    try:
        interval = bootstrap_interval(roc_auc, labels, scores, n=resamples, seed=seed) if resamples else None
    except UsageError as error:
        notes.append(f"no interval of the slide AUC: {error}")
    auc = Score(
        "slide AUC", roc_auc(labels, scores), interval, "CAMELYON16, area under the ROC curve", len(slides)
    )
    return auc, roc_curve(labels, scores), notes


register(
    Evaluation(
        name="camelyon16",
        title="CAMELYON16: metastases in sentinel lymph nodes",
        paper="Ehteshami Bejnordi et al., JAMA 2017;318(22):2199-2210",
        data="CAMELYON16 (CC0); the published figures are for its 129 or 130 test slides",
        predictions="folder written by `medvision analyze`, or SLIDE.csv (probability, x, y) and slide_scores.csv",
        reference="folder of ASAP XML, GeoJSON or SLIDE_mask.tif",
        published=PUBLISHED,
        evaluate=evaluate,
    )
)

"""`medvision evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from medvision.cli.console import console, print_made
from medvision.evaluations.base import RESAMPLES

if TYPE_CHECKING:
    from medvision.evaluations.page import EvaluationPage

app = App(
    name="evaluate",
    help=(
        "Score predictions by a benchmark's official protocol.\n\n"
        "Example: medvision evaluate camelyon16 --predictions results --reference truth --out scores"
    ),
)


@app.command
def camelyon16(
    *,
    predictions: Path,
    reference: Path,
    out: Path,
    protocol: Literal["official", "corrected"] = "official",
    slide_spacing: float | None = None,
    exclude: tuple[str, ...] = (),
) -> int:
    """CAMELYON16: lesion FROC and slide AUC, with 95% bootstrap intervals over slides.

    Example: medvision evaluate camelyon16 --predictions results --reference truth --out scores

    Parameters
    ----------
    predictions
        Output folder of `medvision analyze`, or a folder of CSV files `SLIDE.csv` with probability,x,y per detection.
    reference
        Folder of ASAP XML outlines or mask images named like the slides; a slide with an empty file is normal.
    out
        Folder for the scores as JSON and Markdown, the FROC plot and a page.
    protocol
        "official" repeats the published evaluation, its quirks included; "corrected" leaves them out.
    slide_spacing
        Level-0 µm/px of slides whose predictions do not state it (CAMELYON16: 0.243).
    exclude
        Slides to leave out by name, such as test_049 (a duplicate) and test_114 (not exhaustively annotated).
    """
    from medvision.evaluations.camelyon16 import evaluate
    from medvision.evaluations.camelyon16_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, reference, protocol, slide_spacing, exclude)), out)


@app.command
def camelyon17(*, predictions: Path, reference: Path, out: Path) -> int:
    """CAMELYON17: pN stage of patients by quadratic weighted kappa, with a 95% bootstrap interval over patients.

    Example: medvision evaluate camelyon17 --predictions stages.csv --reference stage_labels.csv --out scores

    Parameters
    ----------
    predictions
        CSV with the columns patient,stage: `patient_017.zip` with a stage (pN0, pN0(i+), pN1mi, pN1, pN2),
        `patient_017_node_2.tif` with a label (negative, itc, micro, macro), or both.
    reference
        CSV of the same layout.
    out
        Folder for the scores as JSON and Markdown, the confusion tables and a page.
    """
    from medvision.evaluations.camelyon17 import evaluate
    from medvision.evaluations.camelyon17_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, reference)), out)


@app.command
def luna16(
    *,
    candidates: Path,
    annotations: Path,
    excluded: Path,
    seriesuids: Path,
    out: Path,
    folds: Path | None = None,
    diameters: tuple[float, ...] = (),
    resamples: int = RESAMPLES,
) -> int:
    """LUNA16: sensitivity to lung nodules at 1/8 to 8 false positives per scan, and their mean, the CPM.

    Example: medvision evaluate luna16 --candidates candidates.csv --annotations annotations.csv
    --excluded annotations_excluded.csv --seriesuids seriesuids.csv --out scores

    Parameters
    ----------
    candidates
        CSV with the columns seriesuid,coordX,coordY,coordZ,probability (world mm), or a folder of such files, say one
        per fold, which are pooled.
    annotations
        CSV with the columns seriesuid,coordX,coordY,coordZ,diameter_mm: the nodules to be found.
    excluded
        The same of findings that count neither way; a diameter of -1 or none stands for 10 mm.
    seriesuids
        CSV without header: the scans, those without nodule and without candidate included.
    out
        Folder for the scores as JSON, Markdown and CSV, the FROC plot and a page.
    folds
        CSV with the columns seriesuid,fold, or a folder with a folder of scans per fold (subset0 to subset9).
    diameters
        Limits in mm of the classes of diameter. Default: 6, 8 and 15.
    resamples
        Bootstrap draws of scans for the intervals; 0 for none.
    """
    from medvision.evaluations.luna16 import DIAMETERS_MM, evaluate
    from medvision.evaluations.luna16_page import describe
    from medvision.store.files import make_output

    make_output(out)
    limits = diameters or DIAMETERS_MM
    result = evaluate(candidates, annotations, excluded, seriesuids, folds, limits, resamples)
    return _write(describe(result), out)


@app.command
def picai(
    *,
    predictions: Path,
    out: Path,
    reference: Path | None = None,
    min_overlap: float = 0.1,
    overlap: Literal["iou", "dice"] = "iou",
    resamples: int = RESAMPLES,
) -> int:
    """PI-CAI: lesions in detection maps by average precision, and cases by AUROC, as picai_eval counts them.

    Example: medvision evaluate picai --predictions maps --reference labels --out scores

    Parameters
    ----------
    predictions
        Folder of `CASE_detection_map.nii.gz` (or .nii, .mha, .mhd, .nrrd, .npy): 0, and in each connected part one
        confidence.
    reference
        Folder of `CASE_label.nii.gz` or `CASE.nii.gz`; the same folder if not given.
    out
        Folder for the scores as JSON (one as picai_eval writes it) and Markdown, the curves and a page.
    min_overlap
        Least overlap of a candidate with a lesion that it finds.
    overlap
        Intersection over union, or Dice coefficient.
    resamples
        Bootstrap draws of cases for the intervals; 0 for none.
    """
    from medvision.evaluations.picai import evaluate
    from medvision.evaluations.picai_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, reference, min_overlap, overlap, resamples)), out)


@app.command
def points(
    *,
    predictions: Path,
    reference: Path,
    out: Path,
    radius: float = 1.0,
    threshold: float | None = None,
    matching: Literal["reference", "nearest"] = "reference",
) -> int:
    """Points within a radius of those of a reference, one to one: precision, recall and F1, as evalutils counts them.

    Example: medvision evaluate points --predictions predictions.csv --reference reference.csv --radius 1 --out scores

    Parameters
    ----------
    predictions
        CSV with the columns x,y and, where there are any, z, image and score.
    reference
        CSV with the same columns.
    out
        Folder for the scores as JSON and Markdown, and a page.
    radius
        Greatest distance of a hit, in the unit of the files.
    threshold
        Only predictions with a score above it count.
    matching
        "reference" gives each point of the reference, in its order, the nearest prediction that is left, as evalutils
        does; "nearest" takes the nearest pairs first.
    """
    from medvision.evaluations.points import evaluate
    from medvision.evaluations.points_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, reference, radius, threshold, matching)), out)


@app.command
def pathology(*, predictions: Path, out: Path, positive: str | None = None, bins: int = 15) -> int:
    """Patches: AUC with intervals, Brier score, calibration error, ROC and reliability curves.

    Example: medvision evaluate pathology --predictions patches.csv --out scores

    Parameters
    ----------
    predictions
        CSV with the columns label,probability and, where known, slide (intervals then draw whole slides) and patch.
    out
        Folder for the scores as JSON and Markdown, the curves and a page.
    positive
        The label that is positive, where labels are not 0 and 1, normal and tumour, or negative and positive.
    bins
        Equal-width bins of the reliability table.
    """
    from medvision.evaluations.pathology import evaluate
    from medvision.evaluations.pathology_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, positive, bins)), out)


@app.command
def classify(
    *, predictions: Path, truth: Path, out: Path, readers: Path | None = None, resamples: int = RESAMPLES
) -> int:
    """Classified images: accuracy, AUCs, calibration, confusion table, and the figures of MedMNIST's evaluator.

    Example: medvision evaluate classify --predictions scores.csv --truth truth.csv --out scores

    Parameters
    ----------
    predictions
        CSV with the column image and one of probability per class; of two classes, one column is enough.
    truth
        CSV with the columns image,label and, where known, group (such as the patient; intervals then draw groups).
    out
        Folder for the scores as JSON and Markdown, the curves and a page.
    readers
        Of two classes: CSV with the columns reader,sensitivity,specificity, drawn beside the ROC curve.
    resamples
        Draws for the intervals that have no formula, and for all where there are groups; 0 for none.
    """
    from medvision.evaluations.classify import evaluate
    from medvision.evaluations.image_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, truth, readers, resamples)), out)


@app.command
def oct(
    *,
    predictions: Path,
    truth: Path,
    out: Path,
    penalties: Path | None = None,
    readers: Path | None = None,
    resamples: int = RESAMPLES,
) -> int:
    """Retinal OCT: four classes, urgent referral (CNV, DME) against the rest, and the weighted error.

    Example: medvision evaluate oct --predictions scores.csv --truth truth.csv --out scores

    Parameters
    ----------
    predictions
        CSV with the columns image,CNV,DME,DRUSEN,NORMAL.
    truth
        CSV with the columns image,label and, where known, group (the patient).
    out
        Folder for the scores as JSON and Markdown, the curves and a page.
    penalties
        YAML: for each true class what each answer costs. The default is this project's, not the paper's.
    readers
        CSV with the columns reader,sensitivity,specificity for urgent referral.
    resamples
        Draws for the intervals that have no formula, and for all where there are groups; 0 for none.
    """
    from medvision.evaluations.image_page import describe
    from medvision.evaluations.oct import evaluate
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, truth, penalties, readers, resamples)), out)


@app.command
def cxr(
    *, predictions: Path, truth: Path, out: Path, readers: Path | None = None, resamples: int = RESAMPLES
) -> int:
    """Chest X-rays: pneumonia against normal, then bacterial against viral.

    Example: medvision evaluate cxr --predictions scores.csv --truth truth.csv --out scores

    Parameters
    ----------
    predictions
        CSV with the column image and those of one of: pneumonia; normal,pneumonia; normal,bacterial,viral;
        bacterial,viral.
    truth
        CSV with the columns image,label (normal, pneumonia, bacterial, viral) and, where known, group (the patient).
    out
        Folder for the scores as JSON and Markdown, the curves and a page.
    readers
        CSV with the columns reader,sensitivity,specificity and, of both tasks, task: pneumonia or bacterial.
    resamples
        Draws for the intervals that have no formula, and for all where there are groups; 0 for none.
    """
    from medvision.evaluations.cxr import evaluate
    from medvision.evaluations.image_page import describe
    from medvision.store.files import make_output

    make_output(out)
    return _write(describe(evaluate(predictions, truth, readers, resamples)), out)


@app.command
def skin(
    *,
    predictions: Path,
    truth: Path,
    out: Path,
    taxonomy: Path | None = None,
    positive: tuple[str, ...] = (),
    negative: tuple[str, ...] = (),
    readers: Path | None = None,
    resamples: int = RESAMPLES,
) -> int:
    """Skin lesions: the ISIC challenges' scores, coarser classes of a taxonomy, and a task beside readers.

    Example: medvision evaluate skin --predictions scores.csv --truth truth.csv --out scores

    Parameters
    ----------
    predictions
        CSV with the column image and one score per class; or of ISIC 2017, with melanoma and seborrheic_keratosis.
    truth
        CSV with the columns image,label and, where known, group (the lesion); or ISIC's, with 0 and 1 per class.
    out
        Folder for the scores as JSON and Markdown, the curves and a page.
    taxonomy
        YAML tree whose nodes hold the classes (see `medvision taxonomy`): scores its first two levels too.
    positive
        Classes or nodes that are positive in a yes-or-no task. Default: the taxonomy's node "malignant".
    negative
        Those that are negative, if not all others.
    readers
        CSV with the columns reader,sensitivity,specificity for this task; of ISIC 2017 also task.
    resamples
        Draws for the intervals that have no formula, and for all where there are groups; 0 for none.
    """
    from medvision.evaluations.image_page import describe
    from medvision.evaluations.skin import evaluate
    from medvision.store.files import make_output

    make_output(out)
    return _write(
        describe(evaluate(predictions, truth, taxonomy, positive, negative, readers, resamples)), out
    )


@app.command
def segment(
    *,
    predictions: Path,
    truth: Path,
    out: Path,
    task: Literal["semantic", "instances", "membranes"] = "semantic",
    classes: tuple[str, ...] = (),
    regions: tuple[str, ...] = (),
    tolerance: float = 1.0,
    ignore: int | None = None,
    empty: Literal["skip", "one"] = "skip",
    thresholds: tuple[float, ...] = (),
    membranes: Literal["dark", "bright"] = "dark",
    thin: bool = True,
    prediction_suffix: str = "",
    truth_suffix: str = "",
    missing: Literal["error", "empty"] = "error",
    extra: Literal["error", "ignore"] = "error",
    cases: Path | None = None,
    spacing: tuple[float, ...] = (),
    unit: Literal["mm", "um"] = "mm",
    patient: str = "",
    resamples: int = RESAMPLES,
) -> int:
    """Segmentations: Dice, IoU and surface distances of labels; precision of objects; Rand and warping of membranes.

    Example: medvision evaluate segment --predictions masks --truth labels --classes 1=anterior --classes 2=posterior
    --out scores

    Parameters
    ----------
    predictions
        Folder of label images (PNG, TIFF, BMP, NIfTI, MetaImage, NRRD, .npy), named like those of the truth, or of
        results of `medvision segment`.
    truth
        The same; of objects also a folder per image with one mask per object (`IMAGE/masks/*.png`).
    out
        Folder for the scores as JSON, Markdown and CSV, the plots and a page.
    task
        "semantic": labels of pixels or voxels. "instances": every number is an object, or masks whose connected parts
        are. "membranes": cells parted by membranes, as in electron micrographs.
    classes
        Labels that are scored, as 1=liver or 1. Default: all but 0.
    regions
        Unions of labels that are scored too, as whole=1,2,4.
    tolerance
        Of the surface Dice, in the unit of the spacing (pixels where there is none).
    ignore
        Pixels with this label in the truth do not count.
    empty
        A class in neither truth nor prediction of a case is left out of its mean ("skip"), or counts as 1.
    thresholds
        Of predicted membranes as probabilities; that with the best mean counts. Default: 0.5.
    membranes
        Whether the low or the high values of all files are membranes.
    thin
        Let predicted cells grow over their membranes before V Rand and V info are taken.
    prediction_suffix
        What follows a case's name in the name of its prediction, such as _pred.
    truth_suffix
        The same of the truth, such as _seg; files one folder deeper are found then.
    missing
        A case without prediction is an error, or counts as empty.
    extra
        A prediction without truth is an error, or left out.
    cases
        Text file with the name of one case per line: only these are scored.
    spacing
        Distance of pixels, one number or one per axis (planes, rows, columns), in place of what files state.
    unit
        Unit of this spacing.
    patient
        Regular expression: what its group finds in the name of a case is the patient, as ^(\\w+)_. Intervals then draw
        patients, with all their cases.
    resamples
        Bootstrap draws of cases for the intervals; 0 for none.
    """
    from medvision.evaluations.segment import evaluate
    from medvision.evaluations.segment_cases import CaseFiles
    from medvision.evaluations.segment_page import describe
    from medvision.evaluations.segment_setup import SegmentOptions
    from medvision.store.files import make_output

    make_output(out)
    options = SegmentOptions(
        task, classes, regions, tolerance, ignore, empty, thresholds or (0.5,), membranes, thin
    )
    files = CaseFiles(prediction_suffix, truth_suffix, missing, extra, cases, spacing, unit, patient)
    return _write(describe(evaluate(predictions, truth, options, files, resamples)), out)


def _write(page: EvaluationPage, out: Path) -> int:
    from medvision.evaluations.page import terminal_table, write_page
    from medvision.report.format import visible

    made = write_page(page, out)  # before a word is said: whoever listens may leave off (`| head`)
    console.print(terminal_table(page))
    for note in page.notes:
        console.print(f"note: {visible(note)}", markup=False, soft_wrap=True)
    for path in made.values():
        print_made(path.suffix[1:], path)
    return 0

"""Any classifier of images: accuracy, AUCs, calibration, and the two figures of MedMNIST's evaluator."""

from __future__ import annotations

from pathlib import Path

from medvision.evaluations.base import RESAMPLES, Evaluation, Published, register
from medvision.evaluations.image_questions import Further, ask
from medvision.evaluations.image_results import Drawing, ImageResult, Scoring
from medvision.evaluations.image_tasks import judge, read_readers
from medvision.evaluations.images import TRUTH_TABLE, read_cases
from medvision.metrics.classes import medmnist_accuracy, medmnist_auc

MEDMNIST = (
    Further(
        "MedMNIST AUC",
        "evaluator of MedMNIST: of two classes the AUC of the last, else the mean of the AUCs against the rest",
        lambda y, p, _d: medmnist_auc(y, p),
    ),
    Further(
        "MedMNIST ACC",
        "evaluator of MedMNIST: of two classes the last one above 0.5, else the most probable",
        lambda y, p, _d: medmnist_accuracy(y, p),
    ),
)
MEDMNIST_SOURCE = "Yang et al., Scientific Data 2023;10:41"
PUBLISHED = (
    Published(
        "ResNet-18 at 28 px, PneumoniaMNIST", {"medmnist_auc": 0.944, "medmnist_acc": 0.854}, MEDMNIST_SOURCE
    ),
)


def evaluate(
    predictions: Path, truth: Path, readers: Path | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> ImageResult:
    """Score a table of probabilities against a table of labels.

    Args:
        predictions: CSV `image,<a probability per class>`, or of two classes one of them.
        truth: CSV `image,label[,group]`.
        readers: of two classes, CSV `reader,sensitivity,specificity` for the last one.
        resamples: bootstrap draws for intervals that have no formula, and for all where there are groups.
        seed: equal seeds give equal intervals.

    Raises:
        UsageError: as `images.read_cases` and `image_tasks.read_readers`.
    """
    cases = read_cases(predictions, truth)
    drawing = Drawing(resamples, seed, cases.groups)
    scoring = Scoring("classify", len(cases.images), drawing, [*cases.notes])
    scoring.add(ask(f"{len(cases.classes)} classes", cases, drawing, further=MEDMNIST))
    persons = read_readers(readers, cases.classes[1:] if len(cases.classes) == 2 else ())
    for name, points in persons.items():
        title, scores = f"{name} against {cases.classes[0]}", cases.probabilities[:, 1]
        scoring.add(judge(name, title, cases.labels == 1, scores, drawing, readers=points))
    return scoring.result()


register(
    Evaluation(
        name="classify",
        title="Classified images",
        paper="Yang et al., Scientific Data 2023 (MedMNIST); DeLong et al., Biometrics 1988 (interval)",
        data="any labelled images; the published figures are for the test set of PneumoniaMNIST (CC BY 4.0)",
        predictions="CSV with the columns image and one of probability per class",
        reference=TRUTH_TABLE,
        published=PUBLISHED,
        evaluate=evaluate,
    )
)

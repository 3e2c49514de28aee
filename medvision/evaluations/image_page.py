"""An evaluation of classified images as a page: ROC curves with readers, confusion tables, definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medvision.core.results import Score
from medvision.evaluations import classify, cxr, isic, oct, skin
from medvision.evaluations.base import Published
from medvision.evaluations.image_plots import draw_curves
from medvision.evaluations.image_results import ImageResult, Question, Task
from medvision.evaluations.page import NONE, EvaluationPage, PageTable, Row, interval_text, number
from medvision.metrics.ranking import RocCurve

Finder = Callable[[ImageResult], Score | None]
DEPTHS = 9


@dataclass(frozen=True, slots=True)
class _Layout:
    """What of an evaluation's page is its own: texts, figures in bold, and where ours beside the published ones are."""

    heading: str
    published: tuple[Published, ...]
    published_note: str
    columns: Mapping[str, tuple[str, Finder]]
    main: tuple[str, ...]


def describe(result: ImageResult) -> EvaluationPage:
    """The result as a page."""
    tasks = {task.name for task in result.tasks}
    layout = _ISIC_2017 if result.name == "skin" and tasks == set(isic.TASKS_2017) else _LAYOUTS[result.name]
    groups = result.drawing.groups
    of_groups = "" if groups is None else f" of {len(set(groups.tolist()))} groups"
    how = (
        f"{result.drawing.resamples:,} bootstrap draws of whole groups"
        if groups is not None
        else f"Wilson of shares, DeLong of AUCs, {result.drawing.resamples:,} bootstrap draws of images of the rest"
    )
    plot = draw_curves(result)
    return EvaluationPage(
        name=result.name,
        title=layout.heading,
        kicker="Evaluation",
        heading=layout.heading,
        summary=f"{result.images:,} images{of_groups}. Intervals: 95%; {how}.",
        rows=_rows(result, layout.main),
        plots=() if plot is None else (plot,),
        notes=result.notes,
        tables=(
            _beside_published(result, layout),
            *_task_tables(result.tasks),
            *(table for question in result.questions for table in _question_tables(question)),
            *result.tables,
            _definitions(result),
        ),
        published=layout.published,
        published_note=layout.published_note,
        columns={key: head for key, (head, _) in layout.columns.items()},
        ours={key: _value(find(result)) for key, (_, find) in layout.columns.items() if find(result)},
        data=to_json(result),
    )


def to_json(result: ImageResult) -> dict[str, Any]:
    """Everything that was found, ready for JSON. The threshold of a curve's first point, infinity, is null."""
    drawing = result.drawing
    return {
        "evaluation": result.name,
        "images": result.images,
        "groups": None if drawing.groups is None else len(set(drawing.groups.tolist())),
        "figures": _scores(result.figures),
        "questions": [
            {
                "title": one.title,
                "figures": _scores(one.figures),
                "classes": {
                    name: {**_scores(figures), "roc": _curve(curve)}
                    for name, figures, curve in zip(one.classes, one.per_class, one.curves, strict=True)
                },
                "confusion": {"columns": one.columns, "reference in rows": one.table.tolist()},
            }
            for one in result.questions
        ],
        "tasks": [
            {
                "name": one.name,
                "title": one.title,
                "images": {"all": one.cases, "positive": one.positives},
                "figures": _scores(one.figures),
                "readers": [asdict(reader) for reader in one.readers],
                "roc": _curve(one.curve),
            }
            for one in result.tasks
        ],
        "settings": dict(result.settings),
        "intervals": {
            "level": 0.95,
            "bootstrap over": "images" if drawing.groups is None else "groups",
            "resamples": drawing.resamples,
            "seed": drawing.seed,
        },
    }


def _rows(result: ImageResult, main: tuple[str, ...]) -> tuple[Row, ...]:
    parts = [("", result.figures)]
    parts += [
        (f"{one.title}: " if len(result.questions) > 1 else "", one.figures) for one in result.questions
    ]
    parts += [(f"{one.name}: ", one.figures) for one in result.tasks]
    return tuple(
        Row(prefix + name, _value(score), interval_text(score.interval if score else None), name in main)
        for prefix, figures in parts
        for name, score in figures.items()
    )


def _beside_published(result: ImageResult, layout: _Layout) -> PageTable:
    """Our figures and, in a column for each, those that somebody published, for the figures that we define alike."""
    known = [entry for entry in layout.published if entry.figures.keys() & layout.columns.keys()]
    rows = tuple(
        (
            head,
            _value(find(result)),
            *(number(entry.figures[key]) if key in entry.figures else NONE for entry in known),
        )
        for key, (head, find) in layout.columns.items()
    )
    names = [f"published: {entry.method}" for entry in known]
    note = f"Columns of others: {layout.published_note}. They compare only with figures measured on the same images."
    return PageTable(
        "Each figure beside published ones", ("figure", "these predictions", *names), rows, note=note
    )


def _task_tables(tasks: tuple[Task, ...]) -> list[PageTable]:
    rows = tuple(
        (one.name, one.title, f"{one.positives:,}", f"{one.cases - one.positives:,}") for one in tasks
    )
    tables = (
        [PageTable("Tasks", ("name", "task", "positive images", "negative images"), rows, words=2)]
        if rows
        else []
    )
    for one in tasks:
        readers = tuple(
            (r.name, number(r.sensitivity), number(r.specificity), number(r.predictions)) for r in one.readers
        )
        head = ("reader", "sensitivity", "specificity", "predictions' sensitivity there")
        note = "The last column is the highest sensitivity of the predictions at no less than the reader's specificity."
        if readers:
            tables.append(PageTable(f"Readers: {one.title}", head, readers, note=note))
    return tables


def _question_tables(question: Question) -> list[PageTable]:
    names = list(question.per_class[0])
    images = question.table.sum(axis=1).tolist()
    each = tuple(
        (name, f"{count:,}", *(_with_interval(figures[key]) for key in names))
        for name, count, figures in zip(question.classes, images, question.per_class, strict=True)
    )
    counts = tuple(
        (name, *(f"{count:,}" for count in row))
        for name, row in zip(question.classes, question.table.tolist(), strict=True)
    )
    shares = question.table / question.table.sum(axis=1, keepdims=True).clip(1)
    shades = tuple(tuple(math.ceil(share * DEPTHS) for share in row) for row in shares.tolist())
    return [
        PageTable(f"{question.title}: each against the rest", ("class", "images", *names), each),
        PageTable(
            f"{question.title}: reference in rows, predicted in columns",
            ("reference", *question.columns),
            counts,
            note="The darker, the larger the share of the row's images.",
            shades=shades,
        ),
    ]


def _definitions(result: ImageResult) -> PageTable:
    """What each figure is; those of several questions or classes that are defined alike come once."""
    parts = [("", result.figures), *(("", one.figures) for one in result.questions)]
    parts += [("a class: ", figures) for one in result.questions for figures in one.per_class]
    parts += [(f"{one.name}: ", one.figures) for one in result.tasks]
    texts = {
        (prefix + name, score.protocol): None
        for prefix, part in parts
        for name, score in part.items()
        if score
    }
    return PageTable("Definitions", ("figure", "definition"), tuple(texts), words=2)


def _scores(figures: Mapping[str, Score | None]) -> dict[str, Any]:
    return {name: asdict(score) if score else None for name, score in figures.items()}


def _curve(curve: RocCurve | None) -> list[dict[str, float | None]]:
    if curve is None:
        return []
    points = zip(
        curve.thresholds.tolist(), curve.false_positive_rate.tolist(), curve.sensitivity.tolist(), strict=True
    )
    return [
        {"threshold": t if math.isfinite(t) else None, "false_positive_rate": f, "sensitivity": s}
        for t, f, s in points
    ]


def _value(score: Score | None) -> str:
    return number(score.value if score else None)


def _with_interval(score: Score | None) -> str:
    if score is None:
        return NONE
    return f"{score.value:.3f}" + (f" ({interval_text(score.interval)})" if score.interval else "")


def _asked(name: str, title: str = "") -> Finder:
    """The figure `name` of the first question, or of the first whose title begins with `title`."""

    def find(result: ImageResult) -> Score | None:
        found = next((one for one in result.questions if one.title.startswith(title)), None)
        return found.figures.get(name) if found else None

    return find


def _judged(name: str, task: str) -> Finder:
    """The figure `name` of the task."""

    def find(result: ImageResult) -> Score | None:
        found = next((one for one in result.tasks if one.name == task), None)
        return found.figures.get(name) if found else None

    return find


_ISIC_2017 = _Layout(
    "Skin lesions: ISIC 2017, part 3",
    isic.PUBLISHED_2017,
    "published, the challenge's 600 test images",
    {
        "mean_auc": ("mean AUC", lambda result: result.figures.get("mean AUC")),
        "melanoma_auc": ("AUC, melanoma", _judged("AUC", "melanoma")),
        "seborrheic_keratosis_auc": ("AUC, seborrheic keratosis", _judged("AUC", "seborrheic_keratosis")),
    },
    ("mean AUC", "AUC"),
)
_LAYOUTS = {
    "classify": _Layout(
        "Classified images",
        classify.PUBLISHED,
        "published, each for the data set named",
        {
            "medmnist_auc": ("MedMNIST AUC", _asked("MedMNIST AUC")),
            "medmnist_acc": ("MedMNIST ACC", _asked("MedMNIST ACC")),
        },
        ("accuracy", "balanced accuracy", "macro AUC"),
    ),
    "oct": _Layout(
        "Retinal OCT: CNV, DME, drusen, normal",
        oct.PUBLISHED,
        "published, OCT2017's 1,000 test images",
        {
            "accuracy": ("4-way accuracy", _asked("accuracy")),
            "sensitivity": ("sensitivity, urgent", _judged("sensitivity", oct.REFERRAL)),
            "specificity": ("specificity, urgent", _judged("specificity", oct.REFERRAL)),
            "auc": ("AUC, urgent", _judged("AUC", oct.REFERRAL)),
        },
        ("weighted error", "AUC", "sensitivity", "specificity"),
    ),
    "cxr": _Layout(
        "Chest X-rays: pneumonia",
        cxr.PUBLISHED,
        "published, ChestXRay2017's 624 test images or their 28 px copies",
        {
            "accuracy": ("accuracy", _judged("accuracy", cxr.PNEUMONIA)),
            "sensitivity": ("sensitivity", _judged("sensitivity", cxr.PNEUMONIA)),
            "specificity": ("specificity", _judged("specificity", cxr.PNEUMONIA)),
            "auc": ("AUC", _judged("AUC", cxr.PNEUMONIA)),
            "kind_accuracy": ("accuracy, bacterial or viral", _judged("accuracy", cxr.BACTERIAL)),
            "kind_auc": ("AUC, bacterial or viral", _judged("AUC", cxr.BACTERIAL)),
        },
        ("AUC", "sensitivity", "specificity"),
    ),
    "skin": _Layout(
        "Skin lesions",
        skin.PUBLISHED,
        "published, each for its own images",
        {
            "balanced_accuracy": ("balanced accuracy", _asked("balanced accuracy")),
            "3-way": ("3-way accuracy", _asked("accuracy", "3-way")),
            "9-way": ("9-way accuracy", _asked("accuracy", "9-way")),
        },
        ("balanced accuracy", "AUC", "mean AUC"),
    ),
}

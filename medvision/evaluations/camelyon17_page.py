"""A CAMELYON17 evaluation as a page with both confusion tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medvision.evaluations.camelyon17 import NODES, PUBLISHED, STAGES, Camelyon17Result, Counts
from medvision.evaluations.page import EvaluationPage, PageTable, Row, interval_text, number
from medvision.report.plots import GREY, Plot, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PUBLISHED_NOTE = "published, CAMELYON17 test set of 100 patients"
_DARK = 0.55


def describe(result: Camelyon17Result) -> EvaluationPage:
    """The result as a page."""
    of_nodes = "" if result.nodes is None else f", {int(result.nodes.sum())} nodes"
    return EvaluationPage(
        name="camelyon17",
        title="CAMELYON17",
        kicker="Evaluation",
        heading="CAMELYON17: pN stage of patients",
        summary=f"{len(result.patients)} patients{of_nodes}. Intervals: 95%, {result.resamples} bootstrap draws of "
        "patients.",
        rows=_rows(result),
        plots=(draw_confusion(result),),
        notes=result.notes,
        tables=_tables(result),
        published=PUBLISHED,
        published_note=PUBLISHED_NOTE,
        columns={"kappa": "patient kappa"},
        ours={"kappa": number(result.kappa.value)},
        data=to_json(result),
    )


def to_json(result: Camelyon17Result) -> dict[str, Any]:
    """Everything that was found, ready for JSON."""
    return {
        "evaluation": "camelyon17",
        "patients": len(result.patients),
        "kappa": asdict(result.kappa),
        "stages": {"classes": STAGES, "reference in rows": result.stages.tolist()},
        "node_kappa": asdict(result.node_kappa) if result.node_kappa else None,
        "nodes": None
        if result.nodes is None
        else {"classes": NODES, "reference in rows": result.nodes.tolist()},
        "intervals": {
            "level": 0.95,
            "bootstrap over": "patients",
            "resamples": result.resamples,
            "seed": result.seed,
        },
        "per_patient": [asdict(patient) for patient in result.patients],
    }


def draw_confusion(result: Camelyon17Result) -> Plot:
    """Both tables as pictures: colour by the share of the reference's class, numbers as they were counted."""
    tables: list[tuple[Counts, tuple[str, ...], str]] = [(result.stages, STAGES, "stages of patients")]
    if result.nodes is not None:
        tables.append((result.nodes, NODES, "labels of nodes"))

    def paint(figure: Figure) -> None:
        for axes, (table, classes, title) in zip(
            figure.subplots(1, len(tables), squeeze=False)[0], tables, strict=True
        ):
            _paint(axes, table, classes)
            axes.set_title(title, loc="left", fontsize=11)

    alt = "Confusion tables, the reference in rows; the counts are in the tables below"
    # As wide as five names of stages side by side are, with a gap between them.
    return draw("confusion", alt, (4.4 * len(tables), 4.0), paint)


def _paint(axes: Axes, table: Counts, classes: tuple[str, ...]) -> None:
    share = table / table.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
    for row, column in _places(table):
        count = int(table[row, column])
        colour = "white" if share[row, column] > _DARK else "#1d2b36" if count else GREY
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    axes.spines[:].set_visible(False)


def _places(table: Counts) -> list[tuple[int, int]]:
    return [(row, column) for row in range(table.shape[0]) for column in range(table.shape[1])]


def _rows(result: Camelyon17Result) -> tuple[Row, ...]:
    kappa, nodes = result.kappa, result.node_kappa
    rows = [Row("patient kappa", number(kappa.value), interval_text(kappa.interval), True)]
    rows.append(Row("patients with the right stage", _share(result.stages)))
    if result.nodes is not None:
        rows.append(
            Row(
                "node kappa",
                number(nodes.value if nodes else None),
                interval_text(nodes.interval if nodes else None),
            )
        )
        rows.append(Row("nodes with the right label", _share(result.nodes)))
    return tuple(rows)


def _share(table: Counts) -> str:
    return f"{int(table.trace())} of {int(table.sum())}"


def _tables(result: Camelyon17Result) -> tuple[PageTable, ...]:
    tables = [_confusion("Stages: reference in rows, predicted in columns", result.stages, STAGES)]
    if result.nodes is not None:
        tables.append(_confusion("Nodes: reference in rows, predicted in columns", result.nodes, NODES))
    rows = tuple(
        (p.patient, p.reference, p.predicted, " ".join(p.reference_nodes), " ".join(p.predicted_nodes))
        for p in result.patients
    )
    head = ("patient", "reference", "predicted", "nodes, reference", "nodes, predicted")
    return (*tables, PageTable("Patients", head, rows, words=5))


def _confusion(title: str, table: Counts, classes: tuple[str, ...]) -> PageTable:
    rows = tuple(
        (name, *(str(count) for count in row)) for name, row in zip(classes, table.tolist(), strict=True)
    )
    return PageTable(title, ("reference", *classes), rows)

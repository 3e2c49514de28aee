"""What is written about a CAMELYON16 evaluation: JSON (the truth), the FROC curve, a page, and a table to print."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from medvision.evaluations.camelyon16 import PUBLISHED, Camelyon16Result
from medvision.report.html import read_template, render_page
from medvision.store.files import atomic_write, make_output
from medvision.store.records import EvaluationRecord, ScoreRecord

JSON, PNG, SVG, HTML = "camelyon16.json", "froc.png", "froc.svg", "camelyon16.html"
PUBLISHED_NOTE = "published, CAMELYON16 test set"
_FROC = "lesion FROC"
_ABBREVIATED = {"auc": "AUC", "froc": "FROC"}


def write_evaluation(result: Camelyon16Result, out: Path) -> dict[str, Path]:
    """Write the four files into `out`, made if absent; equal results give equal bytes. Returns their paths by kind.

    Raises:
        UsageError: if `out` cannot be written to.
    """
    make_output(out)
    svg, png = draw_froc(result)
    text = json.dumps(to_json(result), indent=1, allow_nan=False) + "\n"
    files = {"json": (JSON, text.encode()), "png": (PNG, png), "svg": (SVG, svg)}
    files["html"] = (HTML, render_evaluation(result, svg))
    for name, content in files.values():
        atomic_write(out / name, content)
    return {kind: out / name for kind, (name, _) in files.items()}


def to_json(result: Camelyon16Result) -> dict[str, Any]:
    """Everything that was found, ready for JSON. The threshold of the curve's first point, infinity, is null."""
    curve = zip(result.froc.thresholds, result.froc.false_positives, result.froc.sensitivity, strict=True)
    intervals = result.froc.intervals or [None] * len(result.froc.rates)
    return {
        "evaluation": "camelyon16",
        "protocol": result.protocol,
        "slides": {"all": len(result.slides), "tumour": result.tumour_slides},
        "lesions": {
            "counted": result.froc.lesions,
            "isolated tumour cells, not counted": result.froc.ignored,
        },
        "detections": result.detections,
        "froc": {
            "score": result.froc.score,
            "interval": result.froc.interval,
            "at": [
                {"false_positives_per_slide": rate, "sensitivity": sensitivity, "interval": interval}
                for rate, sensitivity, interval in zip(
                    result.froc.rates, result.froc.sensitivities, intervals, strict=True
                )
            ],
            "curve": [
                {
                    "threshold": t if math.isfinite(t) else None,
                    "false_positives_per_slide": f,
                    "sensitivity": s,
                }
                for t, f, s in (map(float, point) for point in curve)
            ],
        },
        "slide_auc": asdict(result.auc) if result.auc else None,
        "intervals": {
            "level": 0.95,
            "bootstrap over": "slides",
            "resamples": result.resamples,
            "seed": result.seed,
        },
        "per_slide": [asdict(slide) for slide in result.slides],
        "notes": list(result.notes),
        "published": [{"note": PUBLISHED_NOTE, **asdict(entry)} for entry in PUBLISHED],
    }


def evaluation_record(result: Camelyon16Result, truth: str) -> EvaluationRecord:
    """The figures as the index page of a run shows them; `truth` says in words what was compared with."""
    scores = [
        ScoreRecord(
            name=_FROC,
            value=result.froc.score,
            interval=result.froc.interval,
            protocol=f"CAMELYON16, {result.protocol}",
            cases=result.froc.cases,
        )
    ]
    if result.auc is not None:
        scores.insert(0, ScoreRecord(**asdict(result.auc)))
    curve = np.stack([result.froc.false_positives, result.froc.sensitivity], axis=1)
    return EvaluationRecord(
        title="CAMELYON16 evaluation",
        truth=truth,
        scores=tuple(scores),
        froc=tuple((float(fp), float(sensitivity)) for fp, sensitivity in curve),
        note="; ".join(result.notes),
    )


def terminal_table(result: Camelyon16Result) -> Table:
    """The figures with intervals, and the published ones apart below them."""
    table = Table(
        title=f"CAMELYON16, {result.protocol} protocol", caption=_counts(result), title_justify="left"
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    for name, value, interval in _figures(result):
        table.add_row(name, value, interval, style="bold" if name in ("slide AUC", _FROC) else "")
    table.add_section()
    table.add_row(PUBLISHED_NOTE, "", "", style="dim italic")
    for entry in PUBLISHED:
        figures = ", ".join(
            f"{_ABBREVIATED.get(name, name)} {value:g}" for name, value in entry.figures.items()
        )
        table.add_row(entry.method, figures, "", style="dim")
    return table


def render_evaluation(result: Camelyon16Result, svg: bytes) -> bytes:
    """The page: self-contained, escaped, without script."""
    return render_page(
        "evaluation.html.j2",
        style=read_template("common.css") + read_template("evaluation.css"),
        script="",
        result=result,
        figures=_figures(result),
        counts=_counts(result),
        published=PUBLISHED,
        published_note=PUBLISHED_NOTE,
        curve="data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii"),
    )


def draw_froc(result: Camelyon16Result) -> tuple[bytes, bytes]:
    """The curve as SVG and PNG: sensitivity against false positives per slide, which are on a logarithmic axis."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = result.froc
    with rc_context({"svg.hashsalt": "medvision", "font.size": 10, "svg.fonttype": "path"}):
        figure = Figure(figsize=(6, 4.2), dpi=200, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        first, last = curve.rates[0] / 2, curve.rates[-1] * 1.4
        inner = np.geomspace(first, last, 400)
        axes.plot(
            inner, np.interp(inner, curve.false_positives, curve.sensitivity), color="#155a8a", linewidth=1.8
        )
        intervals = curve.intervals or [(s, s) for s in curve.sensitivities]
        low = [max(0.0, s - a) for s, (a, _) in zip(curve.sensitivities, intervals, strict=True)]
        high = [max(0.0, b - s) for s, (_, b) in zip(curve.sensitivities, intervals, strict=True)]
        axes.errorbar(
            curve.rates, curve.sensitivities, yerr=[low, high], fmt="o", color="#155a8a", markersize=5,
            ecolor="#8ab0c8", elinewidth=1.2, capsize=3, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xlim(first, last)
        axes.set_ylim(0, 1.0)
        axes.set_xticks(curve.rates, [_rate(rate) for rate in curve.rates])
        axes.minorticks_off()
        axes.set_xlabel("mean number of false positives per slide")
        axes.set_ylabel("lesion sensitivity")
        interval = f" ({_interval(curve.interval)})" if curve.interval else ""
        axes.set_title(f"Lesion FROC {curve.score:.3f}{interval}", loc="left", fontsize=11)
        axes.grid(color="#d9e0e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def _figures(result: Camelyon16Result) -> list[tuple[str, str, str]]:
    """Name, value and interval of each figure, as text: the two scores, then the sensitivities."""
    auc = result.auc
    rows = [
        ("slide AUC", f"{auc.value:.3f}" if auc else "not measured", _interval(auc.interval if auc else None))
    ]
    rows.append((_FROC, f"{result.froc.score:.3f}", _interval(result.froc.interval)))
    intervals = result.froc.intervals or [None] * len(result.froc.rates)
    for rate, sensitivity, interval in zip(
        result.froc.rates, result.froc.sensitivities, intervals, strict=True
    ):
        rows.append((f"at {_rate(rate)} FP per slide", f"{sensitivity:.3f}", _interval(interval)))
    return rows


def _rate(rate: float) -> str:
    return {0.25: "1/4", 0.5: "1/2"}.get(rate, f"{rate:g}")


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else "–"


def _counts(result: Camelyon16Result) -> str:
    isolated = (
        f" and {result.froc.ignored} of isolated tumour cells, which do not count"
        if result.froc.ignored
        else ""
    )
    return (
        f"{len(result.slides)} slides, {result.tumour_slides} with tumour; {result.froc.lesions} lesions{isolated}; "
        f"{result.detections} detections"
    )

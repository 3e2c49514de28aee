"""The lines of the index page and of the cohort's tables that are of scans."""

from __future__ import annotations

from pathlib import Path

from medvision.report import format as text
from medvision.report.model import Tone
from medvision.report.rows import NONE, Cell, Row, View, links, note_of, picture_of
from medvision.store.records import SlideOutcome
from medvision.store.scan_records import NoduleResult


def scan_view() -> View:
    """What the page shows of scans."""
    return View(
        item="scan",
        picture="From the front",
        verdict="Verdict",
        columns=("Highest score", "Findings", "Largest", "Lungs"),
        order=("Findings", "No finding", "QC rejected", "Failed"),
        row=_row,
    )


def _row(outcome: SlideOutcome, folder: Path, result: NoduleResult, many: bool) -> Row:
    done, findings = result.verdict == "done", result.findings
    verdict = ("Findings" if findings else "No finding") if done else text.sentence(result.verdict)
    tone: Tone = ("positive" if findings else "negative") if done else "warning"
    largest = max((one.diameter_mm for one in findings), default=None)
    lungs_ml = result.lungs.volume_ml
    flags = [text.visible(measure.name) for measure in result.qc if not measure.ok]
    if result.unread:
        flags.append(text.plural(result.unread, "window") + " unread")
    return Row(
        name=text.visible(outcome.shown),
        tone=tone,
        verdict=verdict,
        spoken=verdict
        if verdict.startswith("QC")
        else {"Findings": "with findings"}.get(verdict, "without a finding"),
        reason=text.visible(result.reason),
        note=note_of(outcome),
        picture=picture_of(
            folder, result.images, False, f"Scan {text.visible(result.scan.name)} from the front", many
        ),
        cells=(
            NONE
            if result.probability is None
            else Cell(
                text.probability(result.probability, result.threshold),
                result.probability,
                bar=True,
                threshold=result.threshold,
            ),
            Cell(text.count(len(findings)), len(findings)) if done else NONE,
            NONE if largest is None else Cell(f"{largest:.1f} mm", largest),
            Cell(f"{lungs_ml:,.0f} ml", lungs_ml) if result.lungs.count else NONE,
        ),
        flags=tuple(text.sentence(flag) for flag in flags),
        links=links(folder),
    )

"""A run as a table for statistics programs and spreadsheets: `cohort.csv` and `cohort.parquet`, one row per slide."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvision.report.build import RUN, read_record
from medvision.store.files import atomic_write
from medvision.store.ledger_records import PastResult
from medvision.store.manifest import read_manifest
from medvision.store.records import RunRecord, SlideOutcome, SlideResult

if TYPE_CHECKING:
    import pyarrow as pa

COHORT_CSV = "cohort.csv"
COHORT_PARQUET = "cohort.parquet"

Value = str | float | int | bool | None
Kind = Literal["string", "float64", "int64", "bool"]

_COLUMNS: dict[str, Kind] = {
    "name": "string",
    "slide": "string",
    "slide_id": "string",
    "verdict": "string",
    "status": "string",
    "reason": "string",
    "probability": "float64",
    "label": "string",
    "threshold": "float64",
    "regions": "int64",
    "longest_mm": "float64",
    "tissue_mm2": "float64",
    "windows": "int64",
    "unread": "int64",
    "spacing_row_um": "float64",
    "spacing_column_um": "float64",
    "reader": "string",
    "model": "string",
    "slide_digest": "string",
    "model_digest": "string",
    "config_digest": "string",
    "code_digest": "string",
    "result_digest": "string",
    "batch_size": "int64",
    "attempts": "int64",
    "run_id": "string",
    "report": "string",
}


@dataclass(frozen=True)
class CohortSlide:
    """A slide of a run: its outcome, its folder, and its result where that stands for the outcome."""

    outcome: SlideOutcome
    folder: Path
    result: SlideResult | None


def write_cohort_table(
    folder: Path, slides: Sequence[CohortSlide], recorded: Mapping[str, PastResult]
) -> tuple[Path, Path]:
    """Write both files into `folder`; `recorded` is what the ledger says of a slide, by name, where there is one.

    Columns are typed and a missing value is null, in CSV an empty cell. Each quality measure has a column `qc_NAME` and
    one `qc_NAME_ok`. A text in the CSV that a spreadsheet would take for a formula begins with an apostrophe. Where
    `cohort.csv` is another table, such as the manifest of the slides, it stays, and ours is `results-cohort.csv`.

    Raises:
        StoreError: if a file cannot be written.
    """
    rows = [_row(slide, recorded.get(slide.outcome.name)) for slide in slides]
    columns = dict(_COLUMNS)
    for slide in slides:
        for measure in slide.result.qc if slide.result else ():
            columns |= {_column(measure.name): "float64", f"{_column(measure.name)}_ok": "bool"}
    table = folder / (COHORT_CSV if _may_replace(folder / COHORT_CSV) else f"results-{COHORT_CSV}")
    atomic_write(table, _csv(columns, rows))
    atomic_write(folder / COHORT_PARQUET, _parquet(columns, rows))
    return table, folder / COHORT_PARQUET


def _may_replace(table: Path) -> bool:
    """Whether nothing is lost by writing there: a person's manifest of slides may have the same name."""
    if not table.is_file():
        return True
    with table.open("rb") as stream:
        return stream.readline().startswith(",".join(_COLUMNS).encode())


def _row(slide: CohortSlide, recorded: PastResult | None) -> dict[str, Value]:
    outcome, result = slide.outcome, slide.result
    row: dict[str, Value] = {
        "name": outcome.name,
        "verdict": outcome.status,
        "status": outcome.status,
        "reason": outcome.reason or None,
        "batch_size": outcome.batch_size,
        **{f"{what}_digest": digest for what, digest in outcome.digests.items()},
    }
    if recorded is not None:
        row |= {"slide_id": recorded.slide_id, "attempts": recorded.attempts, "run_id": recorded.run_id}
    if result is not None:
        row |= _result_cells(slide.folder, result)
        manifest = read_manifest(slide.folder)
        if manifest is not None:
            row |= {f"{what}_digest": digest for what, digest in manifest.spec.digests.items()}
        if recorded is None and (slide.folder / RUN).is_file():
            row["run_id"] = read_record(slide.folder / RUN, RunRecord).run_id
    return {name: value for name, value in row.items() if value is not None}


def _result_cells(folder: Path, result: SlideResult) -> dict[str, Value]:
    done, spacing = result.verdict == "done", result.slide.spacing_um
    lengths = [region.length_mm for region in result.regions]
    cells: dict[str, Value] = {
        "slide": result.slide.name,
        "verdict": result.verdict,
        "reason": result.reason or None,
        "probability": result.probability if done else None,
        "label": result.label,
        "threshold": result.judged_at,
        "regions": len(result.regions) if done else None,
        "longest_mm": max(lengths, default=None) if done and spacing else None,
        "tissue_mm2": result.tissue.area_mm2 if result.tissue and spacing else None,
        "windows": result.heatmap.windows if result.heatmap else None,
        "unread": result.heatmap.unread if result.heatmap else None,
        "spacing_row_um": spacing[0] if spacing else None,
        "spacing_column_um": spacing[1] if spacing else None,
        "reader": result.slide.reader,
        "model": result.model.name,
        "slide_digest": result.slide.digest,
        "model_digest": result.model.digest,
        "config_digest": result.config_digest,
        "report": f"{folder.name}/report.html" if (folder / "report.html").is_file() else None,
    }
    for measure in result.qc:
        cells |= {_column(measure.name): measure.value, f"{_column(measure.name)}_ok": measure.ok}
    return cells


def _column(measure: str) -> str:
    return "qc_" + re.sub(r"\W+", "_", measure.lower()).strip("_")


def _csv(columns: Mapping[str, Kind], rows: Sequence[Mapping[str, Value]]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(row.get(name)) for name in columns)
    return stream.getvalue().encode()


def _cell(value: Value) -> str:
    """A cell that no spreadsheet computes (see OWASP, "CSV injection"); numbers keep their sign."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
    return repr(value)


def _parquet(columns: Mapping[str, Kind], rows: Sequence[Mapping[str, Value]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[Kind, pa.DataType] = {
        "string": pa.string(),
        "float64": pa.float64(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    table = pa.table({name: [row.get(name) for row in rows] for name in columns}, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())

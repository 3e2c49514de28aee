"""A run as tables for statistics programs and spreadsheets: `cohort.csv` and `cohort.parquet`, one row per item.

A run of images is also told as `predictions.csv`, which `medvision evaluate` takes.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvision.report.build import RUN, read_record
from medvision.report.image_rows import classes_of
from medvision.report.result import Result
from medvision.report.rows import Item
from medvision.store.files import atomic_write
from medvision.store.image_records import ImageResult
from medvision.store.ledger_records import PastResult
from medvision.store.manifest import read_manifest
from medvision.store.predictions import PREDICTIONS, may_replace, write_predictions
from medvision.store.records import ItemKind, RunRecord, SlideResult
from medvision.store.scan_records import NoduleResult
from medvision.store.segment_records import ClassTotal, SegmentResult

if TYPE_CHECKING:
    import pyarrow as pa

COHORT_CSV = "cohort.csv"
COHORT_PARQUET = "cohort.parquet"

Value = str | float | int | bool | None
Kind = Literal["string", "float64", "int64", "bool"]

_FIRST: dict[str, Kind] = {"name": "string"}
_ENDED: dict[str, Kind] = {"verdict": "string", "status": "string", "reason": "string"}
_MADE_FROM: dict[str, Kind] = {
    "model_digest": "string",
    "config_digest": "string",
    "code_digest": "string",
    "result_digest": "string",
    "batch_size": "int64",
    "attempts": "int64",
    "run_id": "string",
    "report": "string",
}
_COLUMNS: dict[ItemKind, dict[str, Kind]] = {
    "slide": {
        **_FIRST,
        "slide": "string",
        "slide_id": "string",
        **_ENDED,
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
        **_MADE_FROM,
    },
    "image": {
        **_FIRST,
        "image": "string",
        "image_id": "string",
        **_ENDED,
        "predicted": "string",
        "probability": "float64",
        "in_scope": "bool",
        "energy": "float64",
        "rows": "int64",
        "columns": "int64",
        "bits": "int64",
        "reader": "string",
        "model": "string",
        "image_digest": "string",
        **_MADE_FROM,
    },
    "scan": {
        **_FIRST,
        "scan": "string",
        "scan_id": "string",
        **_ENDED,
        "probability": "float64",
        "label": "string",
        "threshold": "float64",
        "findings": "int64",
        "candidates": "int64",
        "largest_mm": "float64",
        "lungs_ml": "float64",
        "windows": "int64",
        "unread": "int64",
        "planes": "int64",
        "rows": "int64",
        "columns": "int64",
        "spacing_plane_mm": "float64",
        "spacing_row_mm": "float64",
        "spacing_column_mm": "float64",
        "reader": "string",
        "model": "string",
        "scan_digest": "string",
        **_MADE_FROM,
    },
    "case": {
        **_FIRST,
        "case": "string",
        "case_id": "string",
        **_ENDED,
        "kind": "string",
        "label": "string",
        "confidence": "float64",
        "parts": "int64",
        "exact": "bool",
        "windows": "int64",
        "unread": "int64",
        "shape": "string",
        "spacing": "string",
        "unit": "string",
        "reader": "string",
        "model": "string",
        "case_digest": "string",
        **_MADE_FROM,
    },
}


def write_cohort_table(
    folder: Path, items: Sequence[Item], recorded: Mapping[str, PastResult], kind: ItemKind
) -> tuple[Path, ...]:
    """Write both files into `folder`; `recorded` is what the ledger says of an item, by name, where there is one.

    Columns are typed and a missing value is null, in CSV an empty cell. Each quality measure has a column `qc_NAME` and
    one `qc_NAME_ok`; each class of images one of its probability, `p_CLASS`. A text in the CSV that a spreadsheet would
    take for a formula begins with an apostrophe. Where `cohort.csv` is another table, such as the manifest of the
    slides, it stays, and ours is `results-cohort.csv`.

    Raises:
        StoreError: if a file cannot be written.
    """
    rows = [_row(one, recorded.get(one.outcome.name), kind) for one in items]
    columns = dict(_COLUMNS[kind])
    columns |= {_class(name): "float64" for name in classes_of(_of_images(items))}
    columns |= _class_columns(items)
    for one in items:
        for measure in one.result.qc if one.result else ():
            columns |= {_column(measure.name): "float64", f"{_column(measure.name)}_ok": "bool"}
    table = folder / (COHORT_CSV if _may_replace(folder / COHORT_CSV) else f"results-{COHORT_CSV}")
    atomic_write(table, _csv(columns, rows))
    atomic_write(folder / COHORT_PARQUET, _parquet(columns, rows))
    return table, folder / COHORT_PARQUET


def write_cohort_predictions(
    folder: Path, items: Sequence[Item], recorded: Mapping[str, PastResult]
) -> Path | None:
    """Write `predictions.csv` of the images that the ledger knows by an id; returns its path.

    It holds the results of one set of classes: that of most images, where models of several were run. None, and
    nothing written, if no image has a result, or a file of another make has that name.

    Raises:
        StoreError: if the file cannot be written.
    """
    known = [
        (recorded[one.outcome.name].slide_id, one.result.probabilities)
        for one in items
        if one.outcome.name in recorded and isinstance(one.result, ImageResult)
    ]
    path = folder / PREDICTIONS
    if not known or not may_replace(path):
        return None
    classes = Counter(tuple(found) for _, found in known).most_common(1)[0][0]
    rows = ((image_id, found.values()) for image_id, found in known if tuple(found) == classes)
    return write_predictions(path, classes, rows)


def _of_images(items: Iterable[Item]) -> list[ImageResult]:
    return [one.result for one in items if isinstance(one.result, ImageResult)]


def _may_replace(table: Path) -> bool:
    """Whether nothing is lost by writing there: a person's manifest of slides may have the same name."""
    if not table.is_file():
        return True
    with table.open("rb") as stream:
        header = stream.readline()
    return any(header.startswith(",".join(columns).encode()) for columns in _COLUMNS.values())


def _row(item: Item, recorded: PastResult | None, kind: ItemKind) -> dict[str, Value]:
    outcome, result = item.outcome, item.result
    row: dict[str, Value] = {
        "name": outcome.name,
        "verdict": outcome.status,
        "status": outcome.status,
        "reason": outcome.reason or None,
        "batch_size": outcome.batch_size,
        **_digests(outcome.digests, kind),
    }
    if outcome.called:
        row[kind] = outcome.called
    if recorded is not None:
        row |= {f"{kind}_id": recorded.slide_id, "attempts": recorded.attempts, "run_id": recorded.run_id}
    if result is not None:
        row |= _cells(result)
        for measure in result.qc:
            row |= {_column(measure.name): measure.value, f"{_column(measure.name)}_ok": measure.ok}
        if (item.folder / "report.html").is_file():
            row["report"] = f"{item.folder.name}/report.html"
        manifest = read_manifest(item.folder)
        if manifest is not None:
            row |= _digests(manifest.spec.digests, kind)
        if recorded is None and (item.folder / RUN).is_file():
            row["run_id"] = read_record(item.folder / RUN, RunRecord).run_id
    return {name: value for name, value in row.items() if value is not None}


def _digests(found: Mapping[str, str], kind: ItemKind) -> dict[str, Value]:
    """Digests by column; that of what was looked at is called "slide" in every record."""
    return {f"{kind if what == 'slide' else what}_digest": digest for what, digest in found.items()}


def _class_columns(items: Iterable[Item]) -> dict[str, Kind]:
    """Of what was segmented: area or volume of each class, and its parts."""
    found: dict[str, Kind] = {}
    for one in items:
        for total in one.result.classes if isinstance(one.result, SegmentResult) else ():
            found |= {name: "int64" if "parts" in name else "float64" for name in _class_sizes(total)}
    return found


def _class_sizes(total: ClassTotal) -> dict[str, Value]:
    sizes = {
        "share": total.share,
        "area_mm2": total.area_mm2,
        "volume_ml": total.volume_ml,
        "parts": total.parts,
    }
    return {f"{what}_{total.name}": value for what, value in sizes.items() if value is not None}


def _case_cells(result: SegmentResult) -> dict[str, Value]:
    case, tiling = result.case, result.tiling
    cells: dict[str, Value] = {
        "case": case.name,
        "verdict": result.verdict,
        "reason": result.reason or None,
        "kind": case.kind,
        "label": result.label,
        "confidence": result.confidence,
        "parts": result.parts,
        "exact": None if tiling is None else tiling.exact,
        "windows": None if tiling is None else tiling.windows,
        "unread": None if tiling is None else tiling.unread,
        "shape": " ".join(str(side) for side in case.shape),
        "spacing": None if case.spacing is None else " ".join(f"{side:g}" for side in case.spacing),
        "unit": None if case.spacing is None else case.unit,
        "reader": case.reader,
        "model": result.model.name,
        "case_digest": case.digest,
        "config_digest": result.config_digest,
    }
    for total in result.classes:
        cells |= _class_sizes(total)
    return cells


def _cells(result: Result) -> dict[str, Value]:
    if isinstance(result, SegmentResult):
        return _case_cells(result)
    if isinstance(result, NoduleResult):
        return _scan_cells(result)
    return _image_cells(result) if isinstance(result, ImageResult) else _result_cells(result)


def _scan_cells(result: NoduleResult) -> dict[str, Value]:
    done, scan = result.verdict == "done", result.scan
    return {
        "scan": scan.name,
        "verdict": result.verdict,
        "reason": result.reason or None,
        "probability": result.probability,
        "label": result.label,
        "threshold": result.threshold,
        "findings": len(result.findings) if done else None,
        "candidates": result.candidates if done else None,
        "largest_mm": max((one.diameter_mm for one in result.findings), default=None),
        "lungs_ml": result.lungs.volume_ml,
        "windows": result.windows,
        "unread": result.unread,
        "planes": scan.shape[0],
        "rows": scan.shape[1],
        "columns": scan.shape[2],
        "spacing_plane_mm": scan.spacing_mm[0],
        "spacing_row_mm": scan.spacing_mm[1],
        "spacing_column_mm": scan.spacing_mm[2],
        "reader": scan.reader,
        "model": " + ".join(net.name for net in result.models),
        "scan_digest": scan.digest,
        "config_digest": result.config_digest,
    }


def _image_cells(result: ImageResult) -> dict[str, Value]:
    return {
        "image": result.image.name,
        "verdict": result.verdict,
        "reason": result.reason or None,
        "predicted": result.predicted,
        "probability": result.probability,
        "in_scope": result.in_scope,
        "energy": result.energy,
        "rows": result.image.shape[0],
        "columns": result.image.shape[1],
        "bits": result.image.bits,
        "reader": result.image.reader,
        "model": result.model.name,
        "image_digest": result.image.digest,
        "model_digest": result.model.digest,
        "config_digest": result.config_digest,
        **{_class(name): value for name, value in result.probabilities.items()},
    }


def _result_cells(result: SlideResult) -> dict[str, Value]:
    done, spacing = result.verdict == "done", result.slide.spacing_um
    lengths = [region.length_mm for region in result.regions]
    return {
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
    }


def _class(name: str) -> str:
    return f"p_{name}"


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

"""The end of a run over several slides or images: a page that lists every outcome and leads to every report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from medvision.core.errors import StoreError, UsageError
from medvision.report.build import RESULT, read_record
from medvision.report.index import INDEX_JSON, render_index
from medvision.report.result import read_result
from medvision.store.files import make_output
from medvision.store.ledger import Ledger
from medvision.store.records import EvaluationRecord, ItemKind, RunIndex, SlideOutcome
from medvision.store.store import ResultStore


def finish_run(
    out: Path,
    outcomes: Sequence[SlideOutcome],
    evaluation: EvaluationRecord | None = None,
    *,
    ledger: Ledger | None = None,
    run_id: str = "",
    item: ItemKind = "slide",
) -> Path:
    """Write the index page of a run, with `index.json` and the cohort's tables beside it; returns the page.

    The run is of slides or of images, as `item` says. Outcomes of earlier runs into the same folder stay listed unless
    the item was done again. What dead processes left unfinished is removed. Runs that end at once take turns, so that
    each one's outcomes are listed. With the folder's `ledger` and the `run_id` of a run in it, the quality measures of
    the run are recorded there, and the page says how the run compares with the earlier ones.

    Raises:
        UsageError: if `out` cannot be written to or holds results of another kind, or the ledger has no such run.
        StoreError: if an earlier index is there and cannot be read, or the page or the ledger not be written.
    """
    store = ResultStore(make_output(out))
    store.clean()
    check_kind(out, item)
    path = out / INDEX_JSON
    if ledger is not None:
        _record_quality(out, outcomes, ledger, run_id)
    with store.lock(INDEX_JSON):
        earlier = read_record(path, RunIndex).outcomes if path.is_file() else ()
        merged = {outcome.name: outcome for outcome in (*earlier, *outcomes)}
        return render_index(
            out,
            [merged[name] for name in sorted(merged)],
            evaluation,
            run_id if ledger is not None else "",
            item,
        )


def check_kind(out: Path, item: ItemKind) -> None:
    """Refuse an output folder whose page lists another kind of thing: one page cannot compare the two.

    Raises:
        UsageError: if it does.
        StoreError: if its index cannot be read.
    """
    path = out / INDEX_JSON
    if path.is_file() and (index := read_record(path, RunIndex)).outcomes and index.item != item:
        raise UsageError(f"{out} holds results of {index.item}s; name another folder for those of {item}s")


def _record_quality(out: Path, outcomes: Sequence[SlideOutcome], ledger: Ledger, run_id: str) -> None:
    """Tell the ledger the quality measures of each: a later run replaces the results that hold them."""
    slide_ids = {slide.name: slide.slide_id for slide in ledger.run(run_id).slides}
    measures = {}
    for outcome in outcomes:
        path = out / outcome.name / RESULT
        if outcome.status != "failed" and outcome.name in slide_ids and path.is_file():
            # A result that cannot be read is listed on the page, with the reason.
            with contextlib.suppress(StoreError):
                measures[slide_ids[outcome.name]] = read_result(path).qc
    ledger.record_quality(run_id, measures)

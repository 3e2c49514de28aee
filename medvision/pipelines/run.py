"""The end of a run over several slides: a page that lists every outcome and leads to every report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvision.report.build import read_record
from medvision.report.index import INDEX_JSON, render_index
from medvision.store.files import make_output
from medvision.store.records import EvaluationRecord, RunIndex, SlideOutcome
from medvision.store.store import ResultStore


def finish_run(
    out: Path, outcomes: Sequence[SlideOutcome], evaluation: EvaluationRecord | None = None
) -> Path:
    """Write the index page of a run, and `index.json` beside it; returns the page.

    Outcomes of earlier runs into the same folder stay listed unless the slide was analysed again. What dead processes
    left unfinished is removed. Runs that end at once take turns, so that each one's outcomes are listed.

    Raises:
        UsageError: if `out` cannot be written to.
        StoreError: if an earlier index is there and cannot be read, or the page not be written.
    """
    store = ResultStore(make_output(out))
    store.clean()
    path = out / INDEX_JSON
    with store.lock(INDEX_JSON):
        earlier = read_record(path, RunIndex).outcomes if path.is_file() else ()
        merged = {outcome.name: outcome for outcome in (*earlier, *outcomes)}
        return render_index(out, [merged[name] for name in sorted(merged)], evaluation)

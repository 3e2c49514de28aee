"""`medvision runs`: what the ledger of an output folder says of its runs, and whether the results agree with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from medvision.cli.console import console, errors, print_made, table
from medvision.core.errors import StoreError
from medvision.report.format import plural

if TYPE_CHECKING:
    from medvision.store.ledger_records import RunSummary, SlideDetail

_SHOWN = 10

app = App(name="runs", help="List the runs of an output folder, show one, check results against the ledger.")

AsJson = Annotated[bool, Parameter(name="--json")]


@app.default
def list_all(out: Path, /, *, as_json: AsJson = False) -> int:
    """List the runs that the ledger of an output folder holds, newest first; `runs list OUT` does the same.

    Example: medvision runs results

    Parameters
    ----------
    out
        Output folder of a run or a batch.
    as_json
        Print JSON.
    """
    from medvision.store.ledger import LEDGER, Ledger

    with Ledger(out / LEDGER, read_only=True) as ledger:
        runs = ledger.runs()
    if as_json:
        print(json.dumps([_described(run) for run in runs], indent=2))
        return 0
    columns = ("run", "started", "state", "operator", f"{_item(out)}s", "verdicts")
    rows = [
        (
            run.run_id,
            run.start.started_utc,
            run.state,
            run.start.operator,
            str(run.start.slides),
            _counted(run.counts),
        )
        for run in runs
    ]
    console.print(table(f"Runs of {out}", columns, rows))
    return 0


app.command(list_all, name="list")


@app.command
def show(out: Path, run: str | None = None, /, *, as_json: AsJson = False) -> int:
    """Show one run: what it was asked for, and every item with its verdict, attempts, probability and reason.

    Example: medvision runs show results 20260131T120000Z

    Parameters
    ----------
    out
        Output folder of a run or a batch.
    run
        The run's id, or as much of its start as tells it apart; `medvision runs OUT` lists them.
    as_json
        Print JSON.
    """
    from medvision.core.errors import UsageError
    from medvision.store.ledger import LEDGER, Ledger

    if run is None:
        with Ledger(out / LEDGER, read_only=True) as ledger:
            ids = [one.run_id for one in ledger.runs()]
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        raise UsageError(
            f"which run of {out}? Name it, or the start of its id: medvision runs show {out} RUN; runs, newest first: "
            f"{', '.join(ids[:_SHOWN]) or 'none'}{more}"
        )
    with Ledger(out / LEDGER, read_only=True) as ledger:
        detail = ledger.run(run)
    summary = detail.summary
    if as_json:
        slides = [{"verdict": slide.verdict, **slide.model_dump(mode="json")} for slide in detail.slides]
        print(json.dumps({**_described(summary), "slides_planned": slides}, indent=2))
        return 0
    start = summary.start
    lines = {
        "state": summary.state + (f", {summary.end.finished_utc}" if summary.end else ""),
        "started": f"{start.started_utc} by {start.operator}" + (f" on {start.host}" if start.host else ""),
        "command": start.command,
        "runner": start.runner,
        "config": start.config_digest,
        "code": start.code,
        "verdicts": _counted(summary.counts),
    }
    console.print(f"run {summary.run_id}", markup=False)
    for name, text in lines.items():
        if text:
            console.print(f"  {name:<9} {text}", markup=False, soft_wrap=True)
    console.print()
    item = _item(out)
    columns = (item, "verdict", "attempts", "probability", "label", "seconds", "reason")
    console.print(table(f"{item.capitalize()}s", columns, [_slide_row(slide) for slide in detail.slides]))
    return 0


@app.command
def check(out: Path, /, *, as_json: AsJson = False) -> int:
    """Check that ledger, results and index agree: every file is read. Exit status 1 and a line for each disagreement.

    Example: medvision runs check results

    Parameters
    ----------
    out
        Output folder of a run or a batch.
    as_json
        Print JSON.
    """
    from medvision.pipelines.ledger_check import check_ledger
    from medvision.store.ledger import LEDGER, Ledger

    problems = check_ledger(out)
    if problems:
        counts = {"problems": len(problems)}
    else:
        with Ledger(out / LEDGER, read_only=True) as ledger:
            names = {result.name for result in ledger.results()}
            counts = {"problems": 0, "runs": len(ledger.runs()), "slides": len(names)}
    if as_json:
        print(json.dumps({**counts, "disagreements": problems}, indent=2))
    elif problems:
        for problem in problems:
            errors.print(problem, markup=False, soft_wrap=True)
    else:
        runs, items = (plural(counts[what], one) for what, one in (("runs", "run"), ("slides", _item(out))))
        said = f"{runs} and {items}: ledger, results and index agree"
        console.print(said, markup=False)
    return 1 if problems else 0


@app.command
def backup(out: Path, file: Path, /, *, as_json: AsJson = False) -> int:
    """Copy the ledger to a new file as it is at one moment, also while a run writes to it.

    Example: medvision runs backup results ledger-copy.sqlite

    Parameters
    ----------
    out
        Output folder of a run or a batch.
    file
        The copy; nothing may be there.
    as_json
        Print JSON.
    """
    from medvision.store.ledger import LEDGER, Ledger

    with Ledger(out / LEDGER, read_only=True) as ledger:
        made, runs = ledger.back_up(file), len(ledger.runs())
    if as_json:
        print(json.dumps({"backup": str(made), "runs": runs}))
    else:
        print_made("backup", made)
    return 0


def _item(out: Path) -> str:
    """What the runs of an output folder are of: a folder holds results of one kind, which its index names."""
    from medvision.report.build import read_record
    from medvision.report.index import INDEX_JSON
    from medvision.store.records import RunIndex

    try:
        return read_record(out / INDEX_JSON, RunIndex).item
    except StoreError:  # no run has ended yet, or the index is damaged, which `check` tells
        return "item"


def _described(run: RunSummary) -> dict[str, object]:
    """A run as JSON, flat: what it began as, its state and its counts."""
    end = None if run.end is None else run.end.finished_utc
    start = run.start.model_dump(mode="json")
    return {**start, "state": run.state, "finished_utc": end, "counts": run.counts}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def _slide_row(slide: SlideDetail) -> tuple[str, ...]:
    outcome = slide.outcome
    name = slide.slide_id if slide.slide_id == slide.name else f"{slide.slide_id} ({slide.name})"
    if outcome is None:
        return (name, slide.verdict, str(len(slide.attempts)), "", "", "", "")
    return (
        name,
        slide.verdict,
        str(len(slide.attempts)),
        "" if outcome.probability is None else f"{outcome.probability:.3f}",
        outcome.label or "",
        f"{outcome.seconds:.1f}",
        outcome.reason,
    )

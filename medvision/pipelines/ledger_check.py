"""Whether the ledger of an output folder, the results in it and its index tell the same story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medvision.core.errors import StoreError
from medvision.report.build import RESULT, read_record
from medvision.report.index import INDEX_JSON
from medvision.store.files import is_set_aside
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import PastResult, RunDetail
from medvision.store.manifest import MANIFEST, read_manifest, verify
from medvision.store.records import RunIndex, SlideOutcome

_WITH_RESULT = frozenset({"done", "unchanged", "resumed", "no tissue", "QC rejected"})


def check_ledger(out: Path) -> list[str]:
    """Every disagreement between `out/ledger.sqlite`, the results below `out` and `index.json`, one sentence each.

    The database is read throughout; every slide that a finished run planned must have come to an end, and no attempt of
    a run that is over may be open; the last result recorded for each folder must be there, whole to the last byte, and
    made from the slide, model, settings and code that the ledger names; no folder may hold a result that the ledger
    does not know; the index must list each slide's last outcome. Of a run that goes on nothing is asked but what it
    recorded as done.

    Raises:
        StoreError: if the ledger cannot be opened at all.
    """
    with Ledger(out / LEDGER, read_only=True) as ledger:
        damage = ledger.problems()
        if damage:
            return damage
        runs = [ledger.run(run.run_id) for run in ledger.runs()]
        past = sorted(ledger.results(), key=lambda result: result.place)
    made = {result.name: result for result in past if result.status in _WITH_RESULT}
    # A worker of a run that goes on may have put its result in place, and not yet reported it.
    open_names = {
        slide.name
        for run in runs
        if run.summary.state == "running"
        for slide in run.slides
        if slide.verdict in ("begun", "interrupted")
    }
    return [
        *(problem for run in reversed(runs) for problem in _run_problems(run)),
        *(problem for result in made.values() for problem in _result_problems(out, result, open_names)),
        *_unknown_folders(out, runs, made.keys() | open_names),
        *_index_problems(out, runs, past),
    ]


def _run_problems(run: RunDetail) -> Iterator[str]:
    state, run_id = run.summary.state, run.summary.run_id
    for slide in run.slides:
        if slide.verdict == "planned" and state == "finished":
            yield f"run {run_id} is finished, and its slide {slide.slide_id!r} was never begun"
        for attempt in slide.attempts:
            where = f"attempt {attempt.attempt.number} at slide {slide.slide_id!r} of run {run_id}"
            if attempt.end is None:
                if state != "running":
                    yield f"{where} was begun and never ended, and the run is {state}"
                continue
            verdict, outcome = attempt.end.verdict, attempt.end.outcome
            if outcome is None:
                if verdict not in ("interrupted", "failed"):
                    yield f"{where} ended as {verdict!r}, and has no outcome"
            elif verdict not in ("interrupted", outcome.status):
                yield f"{where} ended as {verdict!r}, and its outcome says {outcome.status!r}"
            elif outcome.name != slide.name:
                yield f"{where} has an outcome in the folder {outcome.name!r}, and {slide.name!r} was planned"


def _result_problems(out: Path, result: PastResult, open_names: set[str]) -> Iterator[str]:
    folder = out / result.name
    by = f"the ledger (run {result.run_id}, slide {result.slide_id!r})"
    if folder.parent != out or result.name in ("", ".", ".."):
        yield f"{result.name!r} in {by} is not the name of a folder in {out}"
        return
    if not folder.is_dir():
        yield f"{folder} is missing, and {by} says {result.verdict!r}"
        return
    yield from verify(folder)
    manifest = read_manifest(folder)
    if manifest is None or result.name in open_names:
        return
    held = manifest.spec.digests | {"result": manifest.key}
    if not result.digests:
        yield f"{by} does not say what {folder} was made from"
    for what, digest in result.digests.items():
        if what in held and held[what] != digest:
            yield f"{folder} has the {what} digest {held[what][:12]}, and {by} says {digest[:12]}"


def _unknown_folders(out: Path, runs: Sequence[RunDetail], made: set[str]) -> Iterator[str]:
    planned = {slide.name for run in runs for slide in run.slides}
    folders = {path.parent for name in (MANIFEST, RESULT) for path in out.glob(f"*/{name}")}
    for folder in sorted(folders):
        if folder.name.startswith(".") or is_set_aside(folder) or folder.name in made:
            continue
        if folder.name in planned:
            yield f"{folder} holds a result, and no attempt in the ledger came to one"
        else:
            yield f"{folder} holds a result, and no run in the ledger planned it"


def _index_problems(out: Path, runs: Sequence[RunDetail], past: Sequence[PastResult]) -> Iterator[str]:
    path = out / INDEX_JSON
    over = {run.summary.run_id for run in runs if run.summary.state != "running"}
    # The index is written at a run's end: it cannot know what a run that goes on has recorded.
    last = {result.name: result for result in past if result.status is not None}
    if not path.is_file():
        if over and last:
            yield f"{path} is missing; `medvision report {out}` writes it"
        return
    try:
        listed = {outcome.name: outcome for outcome in read_record(path, RunIndex).outcomes}
    except StoreError as error:
        yield str(error)
        return
    planned = {slide.name for run in runs for slide in run.slides}
    for name in sorted(listed.keys() - planned):
        yield f"{path} lists {name!r}, which no run in the ledger planned"
    for name, result in last.items():
        if result.run_id not in over:
            continue
        outcome = listed.get(name)
        if outcome is None:
            yield f"{path} does not list {name!r}, of which run {result.run_id} says {result.status!r}"
            continue
        # Of runs that went on at once, the page is of the one that ended last, whose results may be the earlier ones.
        rivals = [one for one in past if one.name == name and one.ended_utc >= result.started_utc]
        if not any(_differ(outcome, one) == [] for one in rivals):
            for what in _differ(outcome, result):
                yield (
                    f"{path} and run {result.run_id} of the ledger disagree on the {what} of {name!r}: "
                    f"{getattr(outcome, what)!r} and {getattr(result, what)!r}"
                )


def _differ(outcome: SlideOutcome, result: PastResult) -> list[str]:
    """Fields in which the index and a result that the ledger knows are not the same."""
    compared = ("status", "probability", "label", "digests")
    return [what for what in compared if getattr(outcome, what) != getattr(result, what)]

"""From the journal of a run to the ledger: its attempts, its end, and what a run that died left behind."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medvision.store.journal import Entry, Journal, unfinished
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunEnd
from medvision.store.provenance import utc_now
from medvision.store.records import SlideOutcome
from medvision.store.store import ResultStore

_RECOVERY = "recovery.lock"
"""Name of a lock that no slide's folder can have."""


def recover(out: Path) -> list[str]:
    """Take what dead runs left in their journals into the ledger, as interrupted; returns their ids."""
    recovered = []
    with ResultStore(out).lock(_RECOVERY):  # of two runs that begin at once, one does it
        for journal in unfinished(out):
            with Ledger(out / LEDGER) as ledger:
                known = {run.run_id: run for run in ledger.runs()}
                if journal.run_id in known:
                    interrupt(ledger, journal)
                    if known[journal.run_id].state == "running":
                        ended = {entry.number: entry.outcome for entry in journal.entries() if entry.outcome}
                        ledger.end_run(run_end(journal.run_id, ended, finished=False))
                    recovered.append(journal.run_id)
            journal.remove()
    return recovered


def interrupt(ledger: Ledger, journal: Journal) -> None:
    """Enter every attempt of a journal; one that has not ended was interrupted."""
    detail = ledger.run(journal.run_id)
    over = {one.attempt.attempt_id for slide in detail.slides for one in slide.attempts if one.ends}
    for entry in journal.entries():
        attempt = attempt_of(journal.run_id, entry)
        ledger.begin(attempt)
        if entry.ended_utc is not None and entry.outcome is not None:
            ledger.end(end_of(journal.run_id, entry, entry.ended_utc, entry.outcome))
        elif attempt.attempt_id not in over:
            ledger.end(
                AttemptEnd(
                    attempt_id=attempt.attempt_id, ended_utc=utc_now(), verdict="interrupted", outcome=None
                )
            )


def attempt_of(run_id: str, entry: Entry) -> Attempt:
    """The ledger's record of an attempt's beginning, from the journal's note of it."""
    return Attempt(
        run_id=run_id,
        attempt_id=f"{run_id}/{entry.id}",
        number=entry.number,
        slide_id=entry.slide_id,
        name=entry.name,
        began_utc=entry.began_utc,
        worker=entry.worker,
    )


def end_of(run_id: str, entry: Entry, ended_utc: str, outcome: SlideOutcome) -> AttemptEnd:
    """The ledger's record of an attempt's end."""
    return AttemptEnd(
        attempt_id=f"{run_id}/{entry.id}", ended_utc=ended_utc, verdict=outcome.status, outcome=outcome
    )


def run_end(run_id: str, outcomes: Mapping[int, SlideOutcome], *, finished: bool) -> RunEnd:
    """The end of a run, with how many slides ended in which way."""
    return RunEnd(
        run_id=run_id,
        finished_utc=utc_now(),
        state="finished" if finished else "interrupted",
        counts=Counter(str(outcome.status) for outcome in outcomes.values()),
    )


def operator() -> str:
    """Who runs this: the login name, or the number of a user without one."""
    with contextlib.suppress(KeyError, OSError):  # no entry for this user, as in some containers
        return getpass.getuser()
    return f"uid {os.getuid()}"

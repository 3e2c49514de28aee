"""A plain run over slides or images, entered in the ledger of its output folder like a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medvision.core.digest import digest_json
from medvision.pipelines.batch_plan import numbered
from medvision.pipelines.batch_records import operator, recover, run_end
from medvision.pipelines.run import check_kind, finish_run
from medvision.pipelines.work import Config, work_of
from medvision.store.files import make_output
from medvision.store.journal import Journal
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import Attempt, AttemptEnd, RunStart
from medvision.store.names import claim_names
from medvision.store.provenance import code_digest, new_run_id, software_versions, utc_now
from medvision.store.records import SlideOutcome


class Recorded:
    """A context around a run over `slides`, or images: tell it each outcome as it comes; at the end it makes the page.

    Raises, on entering:
        UsageError: if `out` cannot be written to, or holds results of the other kind.
        StoreError: if the ledger cannot be written.
    """

    def __init__(
        self,
        slides: Sequence[Path],
        out: Path,
        config: Config,
        command: str,
        called: Sequence[str] | None = None,
    ) -> None:
        """The ledger calls them as `claim_names` does, which is told `called`."""
        self._slides, self._out, self._config, self._command = slides, out, config, command
        self._run_id = new_run_id()
        self._work = work_of(config)
        self._called = called
        self._ids: list[str] = []
        self._outcomes: dict[int, SlideOutcome] = {}
        self.page: Path | None = None
        """The page of the run, once it is over and a slide has ended."""

    def __enter__(self) -> Recorded:
        make_output(self._out)
        check_kind(self._out, self._work.item)
        recover(self._out)
        named = claim_names(self._out, self._slides, self._called)
        self._ids = numbered([one.called for one in named])
        self._kept = Journal(self._out, self._run_id).kept()
        self._kept.__enter__()
        fields = self._work.fields(self._config)
        start = RunStart(
            run_id=self._run_id,
            started_utc=utc_now(),
            operator=operator(),
            command=self._command,
            slides=len(self._slides),
            config=fields,
            config_digest=digest_json(fields),
            code=code_digest(),
            software=software_versions(),
            runner="here",
            host=os.uname().nodename,
        )
        with self._ledger() as ledger:
            ledger.begin_run(start, [(one, each.name) for one, each in zip(self._ids, named, strict=True)])
        return self

    def take(self, outcomes: Iterator[SlideOutcome]) -> Iterator[SlideOutcome]:
        """Enter outcomes, which come in the order of the slides, as they pass."""
        for number, outcome in enumerate(outcomes, start=1):
            attempt_id = f"{self._run_id}/{number:05d}-1"
            ended = datetime.now(UTC)
            began = ended - timedelta(seconds=outcome.seconds)
            attempt = Attempt(
                run_id=self._run_id,
                attempt_id=attempt_id,
                number=number,
                slide_id=self._ids[number - 1],
                name=outcome.name,
                began_utc=f"{began:%Y-%m-%dT%H:%M:%SZ}",
                worker=f"{os.uname().nodename}:{os.getpid()}",
            )
            end = AttemptEnd(
                attempt_id=attempt_id,
                ended_utc=f"{ended:%Y-%m-%dT%H:%M:%SZ}",
                verdict=outcome.status,
                outcome=outcome,
            )
            with self._ledger() as ledger:
                ledger.begin(attempt)
                ledger.end(end)
            self._outcomes[number] = outcome
            yield outcome

    def __exit__(self, *_: object) -> None:
        finished = len(self._outcomes) == len(self._slides)
        entered = False
        try:
            with self._ledger() as ledger:
                ledger.end_run(run_end(self._run_id, self._outcomes, finished=finished))
                # An interrupted run lists what it has finished.
                if self._outcomes:
                    ended = [self._outcomes[number] for number in sorted(self._outcomes)]
                    self.page = finish_run(
                        self._out, ended, ledger=ledger, run_id=self._run_id, item=self._work.item
                    )
            entered = True
        finally:
            self._kept.__exit__(None, None, None)
            if entered:  # else the next run finds it, and says in the ledger that this one is over
                Journal(self._out, self._run_id).remove()

    def _ledger(self) -> Ledger:
        return Ledger(self._out / LEDGER)

"""What the ledger of an output folder holds: runs, the slides they planned, attempts at them, and how these ended."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from medvision.store.records import QcMeasure, Record, SlideOutcome, Status

AttemptVerdict = Status | Literal["interrupted"]
"""How an attempt ended: as its outcome says, or with its worker lost or stopped."""

SlideVerdict = AttemptVerdict | Literal["planned", "begun"]
"""Where a slide stands in a run: as its last attempt ended; "begun" without an end, or "planned" without an attempt."""

RunState = Literal["running", "finished", "interrupted"]


class RunStart(Record):
    """A run begins."""

    run_id: str = Field(min_length=1)
    started_utc: str
    operator: str
    """Login name of the person, or of the service, that started it."""
    command: str
    slides: int
    """How many slides were planned."""
    config: dict[str, JsonValue]
    config_digest: str
    code: str
    """Digest of the code that planned the run."""
    software: dict[str, str]
    runner: str = ""
    host: str = ""


class Attempt(Record):
    """A slide is begun."""

    run_id: str
    attempt_id: str = Field(min_length=1)
    number: int = Field(ge=1)
    """Of the slide in the run, from 1."""
    slide_id: str
    name: str
    """Name of the slide's folder below the output folder."""
    began_utc: str
    worker: str = ""


class AttemptEnd(Record):
    """An attempt is over. Without an outcome nothing came of it."""

    attempt_id: str
    ended_utc: str
    verdict: AttemptVerdict
    outcome: SlideOutcome | None = None


class RunEnd(Record):
    """A run is over; `counts` holds the number of slides by verdict."""

    run_id: str
    finished_utc: str
    state: Literal["finished", "interrupted"]
    counts: dict[str, int]


class RunSummary(Record):
    """A run in one line. The counts of a run that goes on are those of the moment."""

    start: RunStart
    end: RunEnd | None
    """The last one recorded; None where the run goes on, or died."""
    counts: dict[str, int]
    """Slides by verdict as the attempts say, whatever `end` says."""

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.start.run_id

    @property
    def state(self) -> RunState:
        """ "running" where no end was recorded."""
        return "running" if self.end is None else self.end.state


class AttemptDetail(Record):
    """An attempt with its ends in the order in which they came; the last one counts."""

    attempt: Attempt
    ends: tuple[AttemptEnd, ...] = ()

    @property
    def end(self) -> AttemptEnd | None:
        """The end that counts."""
        return self.ends[-1] if self.ends else None


class SlideDetail(Record):
    """A slide in a run, with all attempts at it in the order in which they began."""

    slide_id: str
    name: str
    attempts: tuple[AttemptDetail, ...] = ()

    @property
    def verdict(self) -> SlideVerdict:
        """As the last attempt ended; "begun" without an end, or "planned" without an attempt."""
        if not self.attempts:
            return "planned"
        end = self.attempts[-1].end
        return "begun" if end is None else end.verdict

    @property
    def outcome(self) -> SlideOutcome | None:
        """What the last attempt came to, where it has."""
        end = self.attempts[-1].end if self.attempts else None
        return None if end is None else end.outcome


class RunDetail(Record):
    """A run with every slide that it planned, in the order of the plan."""

    summary: RunSummary
    slides: tuple[SlideDetail, ...]


class PastResult(Record):
    """What one run found about one slide."""

    run_id: str
    started_utc: str
    ended_utc: str
    place: int
    """Among all ends of the ledger: a later one has a higher number, whatever the clocks said."""
    slide_id: str
    name: str
    attempts: int
    """How many there were in that run; this is the last one's."""
    attempt_id: str
    verdict: AttemptVerdict
    status: Status | None = None
    """As the outcome says; None without one."""
    reason: str = ""
    probability: float | None = None
    label: str | None = None
    digests: dict[str, str] = Field(default_factory=dict)
    quality: tuple[QcMeasure, ...] = ()
    """Quality measures, where the run's end recorded them."""

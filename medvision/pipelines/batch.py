"""The unattended run over many slides: one verdict for each, whatever happens to the workers.

Nothing here knows who runs the slides. The keeper (`BatchRun`) plans them, follows what the workers note in the
journal, keeps the ledger and makes the page; a worker (`attempt_slide`) analyses one slide and notes that it did. A
flow puts tasks, processes or hosts between the two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from medvision.core.digest import digest_json
from medvision.core.errors import MedvisionError, UsageError
from medvision.engine.device import resolve_device
from medvision.pipelines.analyze import analyze_slide
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.batch_plan import BatchSlide, plan_batch
from medvision.pipelines.batch_records import attempt_of, end_of, interrupt, operator, recover, run_end
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.configured import check_config, check_names
from medvision.pipelines.device import Crew, Seats, devices_of
from medvision.pipelines.losses import Losses, lost_reason
from medvision.pipelines.run import finish_run
from medvision.sources.guarded import Limits
from medvision.store.files import make_output
from medvision.store.journal import Entry, Journal, Teller
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import RunStart
from medvision.store.provenance import code_digest, new_run_id, software_versions, utc_now
from medvision.store.pseudonyms import read_key
from medvision.store.records import SlideOutcome
from medvision.store.store import CONTROL

_LOOK_S = 0.5


class Stopped(Exception):
    """The run was asked to stop; the slide's progress is saved."""


class WorkerLostError(MedvisionError):
    """A slide's workers were lost too often."""


class RunEndError(MedvisionError):
    """A run began, and its page or its records could not be written at its end."""


@dataclass(frozen=True)
class Progress:
    """How a batch stands: for the eye, several times a second."""

    slides: int
    ended: int
    windows_done: int
    bytes_done: int
    bytes_all: int
    new: tuple[SlideOutcome, ...] = ()
    """Slides that have ended since the last time."""


@dataclass
class Follower:
    """Who is told of a run: of its progress, and at the end how each slide has ended."""

    tell: Callable[[Progress], None]
    outcomes: list[SlideOutcome] | None = None
    begun: bool = False
    """Whether the run stands in the ledger: an error before that means that nothing was begun."""


FOLLOWER: ContextVar[Follower | None] = ContextVar("FOLLOWER", default=None)
"""The one of this run. No argument of the flow: Prefect stores those, and may be lost before it can return anything."""


# --- the worker ----------------------------------------------------------------------------------------------------


def attempt_slide(
    slide: BatchSlide, request: BatchRequest, run_id: str, code: str | None = None, tries: int | None = None
) -> SlideOutcome:
    """Analyse one slide of a run and note it in the run's journal; what goes wrong with the slide is the outcome.

    `code` is the digest of the keeper's code, which a worker on another host must have, too. `tries` is the number of
    the last attempt that there may be: a cluster sets a lost worker's slide before the next worker by itself.

    Raises:
        Stopped: if the run is to stop; progress is saved.
        MedvisionError: if the configuration cannot work on this machine, the journal not be written, or that was the
            last attempt.
    """
    journal = Journal(request.out, run_id)
    if code is not None and code != code_digest():
        raise UsageError(
            f"the worker on {os.uname().nodename} has another version of medvision ({code_digest()[:12]}, not "
            f"{code[:12]}): install the same on every host, and restart the workers"
        )
    if journal.stopping:
        raise Stopped
    attempt = journal.next_attempt(slide.number)
    if tries is not None and attempt > tries:
        raise WorkerLostError(lost_reason(tries))
    worker = f"{os.uname().nodename}:{os.getpid()}"
    entry = Entry(
        number=slide.number,
        attempt=attempt,
        slide_id=slide.slide_id,
        name=slide.name,
        began_utc=utc_now(),
        worker=worker,
    )
    journal.write(entry)
    teller = Teller(journal, entry.id)
    config = request.analyze
    if slide.spacing_um is not None:
        config = config.model_copy(update={"slide_spacing": slide.spacing_um})
    with _stop_of(journal) as stop, _device(request) as device:
        try:
            outcome = analyze_slide(
                slide.path,
                request.out,
                config.model_copy(update={"device": device}),
                slide.name,
                teller.on_plan,
                teller.on_windows,
                stop,
                alias=slide.alias,
                limits=limits_of(request.options),
            )
        except (KeyboardInterrupt, CancelledError):
            if stop.is_set():
                raise Stopped from None
            raise
    teller.on_end()
    journal.write(entry.model_copy(update={"ended_utc": utc_now(), "outcome": outcome}))
    return outcome


def limits_of(options: BatchOptions) -> Limits | None:
    """What reading one slide may take; None where slides are trusted."""
    if options.trust:
        return None
    return Limits(memory_bytes=int(options.memory_limit * 1e9), seconds=options.time_limit)


@contextlib.contextmanager
def _stop_of(journal: Journal) -> Iterator[threading.Event]:
    """An event that is set once the run is to stop; a thread looks every second."""
    stop, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            if journal.stopping:
                stop.set()
                return

    thread = threading.Thread(target=look, name="medvision-stop", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        over.set()
        thread.join()


_crew = Crew()
_seats: dict[Path, Seats] = {}


@contextlib.contextmanager
def _device(request: BatchRequest) -> Iterator[str]:
    """The device for one slide: the least busy one of this process, or the one that this worker process has."""
    devices = devices_of(request.analyze.device)
    if request.options.runner == "thread":
        with _crew.least_busy(devices) as device:
            yield device
    else:
        folder = request.out / CONTROL / "seats"
        yield _seats.setdefault(folder, Seats(folder)).take(devices)


# --- the keeper ----------------------------------------------------------------------------------------------------


@dataclass
class BatchRun:
    """One run over the slides of a request: a context in which workers may be set on `waiting()`.

    Raises, on entering:
        MedvisionError: if the slides cannot be listed, the configuration cannot work, or the output not be written.
    """

    request: BatchRequest
    run_id: str = field(default_factory=new_run_id)
    slides: list[BatchSlide] = field(default_factory=list)
    outcomes: dict[int, SlideOutcome] = field(default_factory=dict)
    """By number: how each slide that is over has ended."""
    page: Path | None = None

    def __enter__(self) -> BatchRun:
        self._told = FOLLOWER.get()
        request = self.request
        check_request(request)
        try:
            self.slides = plan_batch(request)
        except MedvisionError as error:
            # It may name slides, and what leaves a flow is kept by Prefect.
            logging.getLogger(__name__).error("%s", error)
            raise UsageError(
                "the slides could not be listed; the log of the run's process says why"
            ) from None
        make_output(request.out)
        self._journal = Journal(request.out, self.run_id)
        self._lock = threading.Lock()
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._losses = Losses(together=request.options.runner == "process")
        self._windows = 0
        self._under_way: dict[int, tuple[int, int]] = {}
        self._sizes = {slide.number: _size(slide.path) for slide in self.slides}
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(self._journal.kept())
        recover(request.out)
        with self._ledger() as ledger:
            ledger.begin_run(self._start(), [(slide.slide_id, slide.name) for slide in self.slides])
        if self._told is not None:
            self._told.begun = True
        self._over = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="medvision-keeper", daemon=True)
        self._follower.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._journal.ask_to_stop()
        self._over.set()
        self._follower.join()
        entered = False
        try:
            self.look()
            with self._ledger() as ledger:
                interrupt(ledger, self._journal)
                finished = len(self.outcomes) == len(self.slides)
                ledger.end_run(run_end(self.run_id, self.outcomes, finished=finished))
                ended = [self.outcomes[number] for number in sorted(self.outcomes)]
                self.page = finish_run(self.request.out, ended, ledger=ledger, run_id=self.run_id)
            if self._told is not None and finished:
                self._told.outcomes = ended
            entered = True
        finally:
            self._closing.close()
            # What the ledger could not take, as on a full disk, the next run on this folder finds here.
            if kind is None and entered:
                self._journal.remove()

    def waiting(self) -> list[BatchSlide]:
        """The slides that no attempt has ended yet, asked while no worker is at any.

        One whose workers were lost too often ends here as failed.
        """
        self.look()
        self._losses.note(self._journal.entries(self._ended))
        for slide in self.slides:
            tried = self._journal.next_attempt(slide.number) - 1
            if slide.number in self.outcomes or tried < self.request.options.attempts:
                continue
            if self._losses.is_to_blame(slide):
                self._give_up(slide, lost_reason(tried))
        return [slide for slide in self.slides if slide.number not in self.outcomes]

    def next_round(self) -> tuple[list[BatchSlide], bool]:
        """Those of `waiting()` to work on next, and whether one after the other."""
        return self._losses.next_round(self.waiting())

    def last_try(self, slide: BatchSlide) -> int:
        """The number of the last attempt at a slide that may begin in this round."""
        return max(self.request.options.attempts, self._journal.next_attempt(slide.number))

    def failed(self, slide: BatchSlide, error: BaseException) -> None:
        """A slide that ended by an error outside its analysis, such as a journal that could not be written."""
        self.look()
        if slide.number in self.outcomes:
            return
        said = (
            str(error) if isinstance(error, MedvisionError) else f"unexpected {type(error).__name__}: {error}"
        )
        self._give_up(slide, said)

    @property
    def begun(self) -> int:
        """How many attempts have begun."""
        return len(self._begun)

    def stop(self) -> None:
        """Have the workers save their progress and stop."""
        self._journal.ask_to_stop()

    def look(self) -> None:
        """Take what the workers noted since the last look into the ledger, and tell who listens."""
        with self._lock:
            new: list[SlideOutcome] = []
            entries = self._journal.entries(self._ended)
            if any(entry.id not in self._begun or entry.ended_utc for entry in entries):
                with self._ledger() as ledger:
                    new = [outcome for entry in entries for outcome in self._take(ledger, entry)]
            if self._told is None:
                return
            told = self._journal.told(entry.id for entry in entries)
            self._windows += sum(told.pop(one, (0, 0))[0] for one in self._ended.intersection(told))
            # A later attempt at a slide, which comes later here, has taken over what an earlier one had done.
            self._under_way = {int(attempt.partition("-")[0]): so_far for attempt, so_far in told.items()}
        self._told.tell(self._progress(new))

    def _take(self, ledger: Ledger, entry: Entry) -> Iterator[SlideOutcome]:
        if entry.id not in self._begun:
            ledger.begin(attempt_of(self.run_id, entry))
            self._begun.add(entry.id)
        if entry.ended_utc is not None and entry.outcome is not None:
            ledger.end(end_of(self.run_id, entry, entry.ended_utc, entry.outcome))
            self._ended.add(entry.id)
            # A fault that may pass is not over while there are tries left.
            if not entry.outcome.transient or entry.attempt >= self.request.options.attempts:
                self.outcomes[entry.number] = entry.outcome
                yield entry.outcome

    def _give_up(self, slide: BatchSlide, reason: str) -> None:
        outcome = SlideOutcome(slide=slide.shown, name=slide.name, status="failed", reason=reason)
        now = utc_now()
        entry = Entry(
            number=slide.number,
            attempt=self._journal.next_attempt(slide.number),
            slide_id=slide.slide_id,
            name=slide.name,
            began_utc=now,
            worker="",
            ended_utc=now,
            outcome=outcome,
        )
        with self._lock, self._ledger() as ledger:
            for _ in self._take(ledger, entry):
                pass
        self.outcomes[slide.number] = outcome
        if self._told is not None:
            self._told.tell(self._progress([outcome]))

    def _progress(self, new: list[SlideOutcome]) -> Progress:
        done, under_way = dict(self.outcomes), self._under_way
        part = 0.0
        for number, (windows, planned) in under_way.items():
            if number not in done and planned:
                part += self._sizes[number] * min(windows / planned, 1.0)
        return Progress(
            slides=len(self.slides),
            ended=len(done),
            windows_done=self._windows + sum(windows for windows, _ in under_way.values()),
            bytes_done=int(part) + sum(self._sizes[number] for number in done),
            bytes_all=sum(self._sizes.values()),
            new=tuple(new),
        )

    def _follow(self) -> None:
        while not self._over.wait(_LOOK_S):
            # A ledger that cannot be written for a moment is tried again; at the end it must be.
            with contextlib.suppress(MedvisionError, OSError):
                self.look()

    def _ledger(self) -> Ledger:
        return Ledger(self.request.out / LEDGER)

    def _start(self) -> RunStart:
        request = self.request
        fields = request.analyze.findings_fields()
        settings = request.options.model_dump(mode="json", exclude={"pseudonym_key", "address"})
        if request.options.pseudonym_key is not None:
            settings["pseudonym_key"] = read_key(request.options.pseudonym_key).fingerprint
        return RunStart(
            run_id=self.run_id,
            started_utc=utc_now(),
            operator=operator(),
            command=command_of(request),
            slides=len(self.slides),
            config={**fields, "batch": settings},
            config_digest=digest_json(fields),
            code=code_digest(),
            software=software_versions(),
            runner=request.options.runner,
            host=os.uname().nodename,
        )


def check_workers(request: BatchRequest) -> None:
    """Refuse more workers than the devices of this machine can serve: two for each, of which one computes.

    Raises:
        UsageError: naming how many there may be.
    """
    options = request.options
    if options.runner == "thread" and options.workers > 1:
        raise UsageError(
            f"--workers {options.workers} is for --runner process or dask; threads follow from the devices"
        )
    if options.runner != "process":
        return
    devices = devices_of(request.analyze.device)
    on_processor = all(device.partition(":")[0] in ("auto", "cpu") for device in devices)
    most = len(os.sched_getaffinity(0)) if on_processor else Seats.PER_DEVICE * len(devices)
    if options.workers > most:
        what = "cores" if on_processor else f"devices ({', '.join(devices)}), two workers for each"
        raise UsageError(f"--workers {options.workers}: this machine has room for {most}, by its {what}")


def command_of(request: BatchRequest) -> str:
    """The command with every setting that is not a default; no paths, which may name a patient."""
    analyze: AnalyzeConfig = request.analyze
    changed = analyze.model_dump(exclude_defaults=True, exclude={"weights", "slide_model"})
    changed |= request.options.model_dump(exclude_defaults=True, exclude={"pseudonym_key", "address"})
    words = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    return shlex.join(["medvision", "batch", *words])


def check_request(request: BatchRequest) -> None:
    """Find what is wrong with the configuration before the first slide; on the device only if this process uses it.

    Raises:
        MedvisionError: if there are too many workers, the key or the model cannot be had, or settings do not fit.
    """
    check_workers(request)
    if request.options.pseudonym_key is not None:
        read_key(request.options.pseudonym_key)
    config = request.analyze
    if request.options.runner != "dask":
        for device in devices_of(config.device):
            resolve_device(device)
    if request.options.runner == "thread":
        check_config(config.model_copy(update={"device": devices_of(config.device)[0]}))
    else:
        check_names(config)


def _size(path: Path) -> int:
    try:
        return max(path.stat().st_size, 1)
    except OSError:
        return 1

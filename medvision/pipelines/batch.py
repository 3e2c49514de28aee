"""The unattended run over many slides or images: one verdict for each, whatever happens to the workers.

Nothing here knows what is done to an item (`medvision.pipelines.work` does), or who runs it. The keeper (`BatchRun`)
plans the items, follows what the workers note in the journal, keeps the ledger and makes the page; a worker
(`attempt_item`) does the work on one item and notes that it did. A flow puts tasks, processes or hosts between the two.
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
from medvision.pipelines.batch_config import BatchOptions, BatchRequest
from medvision.pipelines.batch_plan import BatchItem, config_for, plan_batch, take_names
from medvision.pipelines.batch_records import attempt_of, end_of, interrupt, operator, recover, run_end
from medvision.pipelines.device import Crew, Seats, devices_of
from medvision.pipelines.losses import Losses, lost_reason
from medvision.pipelines.run import check_kind, finish_run
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
    """The run was asked to stop; the item's progress is saved."""


class WorkerLostError(MedvisionError):
    """An item's workers were lost too often."""


class RunEndError(MedvisionError):
    """A run began, and its page or its records could not be written at its end."""


@dataclass(frozen=True)
class Progress:
    """How a batch stands: for the eye, several times a second."""

    items: int
    ended: int
    windows_done: int
    bytes_done: int
    bytes_all: int
    new: tuple[SlideOutcome, ...] = ()
    """Items that have ended since the last time."""


@dataclass
class Follower:
    """Who is told of a run: of its progress, and at the end how each item has ended."""

    tell: Callable[[Progress], None]
    outcomes: list[SlideOutcome] | None = None
    begun: bool = False
    """Whether the run stands in the ledger: an error before that means that nothing was begun."""


FOLLOWER: ContextVar[Follower | None] = ContextVar("FOLLOWER", default=None)
"""The one of this run. No argument of the flow: Prefect stores those, and may be lost before it can return anything."""


# --- the worker ----------------------------------------------------------------------------------------------------


def attempt_item(
    item: BatchItem, request: BatchRequest, run_id: str, code: str | None = None, tries: int | None = None
) -> SlideOutcome:
    """Do the work on one item of a run and note it in the run's journal; what goes wrong with it is the outcome.

    `code` is the digest of the keeper's code, which a worker on another host must have, too. `tries` is the number of
    the last attempt that there may be: a cluster sets a lost worker's item before the next worker by itself.

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
    attempt = journal.next_attempt(item.number)
    if tries is not None and attempt > tries:
        raise WorkerLostError(lost_reason(tries))
    worker = f"{os.uname().nodename}:{os.getpid()}"
    entry = Entry(
        number=item.number,
        attempt=attempt,
        slide_id=item.item_id,
        name=item.name,
        began_utc=utc_now(),
        worker=worker,
    )
    journal.write(entry)
    teller = Teller(journal, entry.id)
    config = config_for(item, request)
    with _stop_of(journal) as stop, _device(request) as device:
        try:
            outcome = request.work.attempt(
                item.path,
                request.out,
                config.model_copy(update={"device": device}),
                item.name,
                teller.on_plan,
                teller.on_windows,
                stop,
                called=item.called,
                alias=item.alias,
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
    """What reading one file may take; None where files are trusted."""
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
    """The device for one item: the least busy one of this process, or the one that this worker process has."""
    devices = devices_of(request.config.device)
    if request.options.runner == "thread":
        with _crew.least_busy(devices) as device:
            yield device
    else:
        folder = request.out / CONTROL / "seats"
        yield _seats.setdefault(folder, Seats(folder)).take(devices)


# --- the keeper ----------------------------------------------------------------------------------------------------


@dataclass
class BatchRun:
    """One run over the items of a request: a context in which workers may be set on `waiting()`.

    Raises, on entering:
        MedvisionError: if the items cannot be listed, the configuration cannot work, or the output not be written.
    """

    request: BatchRequest
    run_id: str = field(default_factory=new_run_id)
    items: list[BatchItem] = field(default_factory=list)
    outcomes: dict[int, SlideOutcome] = field(default_factory=dict)
    """By number: how each item that is over has ended."""
    page: Path | None = None

    def __enter__(self) -> BatchRun:
        self._told = FOLLOWER.get()
        request = self.request
        check_request(request)
        try:
            self.items = plan_batch(request)
        except MedvisionError as error:
            # It may name files, and what leaves a flow is kept by Prefect.
            logging.getLogger(__name__).error("%s", error)
            raise UsageError(
                f"the {request.work.items} could not be listed; the log of the run's process says why"
            ) from None
        make_output(request.out)
        self.items = take_names(self.items, request)
        self._journal = Journal(request.out, self.run_id)
        self._lock = threading.Lock()
        self._begun: set[str] = set()
        self._ended: set[str] = set()
        self._losses = Losses(together=request.options.runner == "process")
        self._windows = 0
        self._under_way: dict[int, tuple[int, int]] = {}
        self._sizes = {item.number: _size(item.path) for item in self.items}
        self._closing = contextlib.ExitStack()
        self._closing.enter_context(self._journal.kept())
        recover(request.out)
        with self._ledger() as ledger:
            ledger.begin_run(self._start(), [(item.item_id, item.name) for item in self.items])
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
                finished = len(self.outcomes) == len(self.items)
                ledger.end_run(run_end(self.run_id, self.outcomes, finished=finished))
                ended = [self.outcomes[number] for number in sorted(self.outcomes)]
                self.page = finish_run(
                    self.request.out, ended, ledger=ledger, run_id=self.run_id, item=self.request.work.item
                )
            if self._told is not None and finished:
                self._told.outcomes = ended
            entered = True
        finally:
            self._closing.close()
            # What the ledger could not take, as on a full disk, the next run on this folder finds here.
            if kind is None and entered:
                self._journal.remove()

    def waiting(self) -> list[BatchItem]:
        """The items that no attempt has ended yet, asked while no worker is at any.

        One whose workers were lost too often ends here as failed.
        """
        self.look()
        self._losses.note(self._journal.entries(self._ended))
        for item in self.items:
            tried = self._journal.next_attempt(item.number) - 1
            if item.number in self.outcomes or tried < self.request.options.attempts:
                continue
            if self._losses.is_to_blame(item):
                self._give_up(item, lost_reason(tried))
        return [item for item in self.items if item.number not in self.outcomes]

    def next_round(self) -> tuple[list[BatchItem], bool]:
        """Those of `waiting()` to work on next, and whether one after the other."""
        return self._losses.next_round(self.waiting())

    def last_try(self, item: BatchItem) -> int:
        """The number of the last attempt at an item that may begin in this round."""
        return max(self.request.options.attempts, self._journal.next_attempt(item.number))

    def failed(self, item: BatchItem, error: BaseException) -> None:
        """An item that ended by an error outside its work, such as a journal that could not be written."""
        self.look()
        if item.number in self.outcomes:
            return
        said = (
            str(error) if isinstance(error, MedvisionError) else f"unexpected {type(error).__name__}: {error}"
        )
        self._give_up(item, said)

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
            # A later attempt at an item, which comes later here, has taken over what an earlier one had done.
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

    def _give_up(self, item: BatchItem, reason: str) -> None:
        called = item.alias or item.called or ""
        outcome = SlideOutcome(
            slide=item.shown, name=item.name, called=called, status="failed", reason=reason
        )
        now = utc_now()
        entry = Entry(
            number=item.number,
            attempt=self._journal.next_attempt(item.number),
            slide_id=item.item_id,
            name=item.name,
            began_utc=now,
            worker="",
            ended_utc=now,
            outcome=outcome,
        )
        with self._lock, self._ledger() as ledger:
            for _ in self._take(ledger, entry):
                pass
        self.outcomes[item.number] = outcome
        if self._told is not None:
            self._told.tell(self._progress([outcome]))

    def _progress(self, new: list[SlideOutcome]) -> Progress:
        done, under_way = dict(self.outcomes), self._under_way
        part = 0.0
        for number, (windows, planned) in under_way.items():
            if number not in done and planned:
                part += self._sizes[number] * min(windows / planned, 1.0)
        return Progress(
            items=len(self.items),
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
        fields = request.work.fields(request.config)
        settings = request.options.model_dump(mode="json", exclude={"pseudonym_key", "address"})
        if request.options.pseudonym_key is not None:
            settings["pseudonym_key"] = read_key(request.options.pseudonym_key).fingerprint
        return RunStart(
            run_id=self.run_id,
            started_utc=utc_now(),
            operator=operator(),
            command=command_of(request),
            slides=len(self.items),
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
    devices = devices_of(request.config.device)
    on_processor = all(device.partition(":")[0] in ("auto", "cpu") for device in devices)
    most = len(os.sched_getaffinity(0)) if on_processor else Seats.PER_DEVICE * len(devices)
    if options.workers > most:
        what = "cores" if on_processor else f"devices ({', '.join(devices)}), two workers for each"
        raise UsageError(f"--workers {options.workers}: this machine has room for {most}, by its {what}")


def command_of(request: BatchRequest) -> str:
    """The command with every setting that is not a default; no paths, which may name a patient."""
    changed = request.config.model_dump(exclude_defaults=True, exclude=set(request.work.paths))
    changed |= request.options.model_dump(exclude_defaults=True, exclude={"pseudonym_key", "address"})
    words = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    return shlex.join(["medvision", request.work.command, *words])


def check_request(request: BatchRequest) -> None:
    """Find what is wrong with the configuration before the first item; on the device only if this process uses it.

    Raises:
        MedvisionError: if there are too many workers, the key or the model cannot be had, settings do not fit, or the
            output folder holds results of another kind.
    """
    check_workers(request)
    if request.options.pseudonym_key is not None:
        read_key(request.options.pseudonym_key)
    check_kind(request.out, request.work.item)
    config = request.config
    if request.options.runner != "dask":
        for device in devices_of(config.device):
            resolve_device(device)
    on_device = request.options.runner == "thread"
    first = devices_of(config.device)[0] if on_device else config.device
    request.work.check(config.model_copy(update={"device": first}), on_device)


def _size(path: Path) -> int:
    try:
        return max(path.stat().st_size, 1)
    except OSError:
        return 1

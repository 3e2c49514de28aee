"""The long-lived process of a workstation: runs due batches one at a time, and looks at the watched folders.

Times are Prefect's business: its server makes the runs, its runner starts each in a process of its own. A folder is
looked at here, so that no empty run is made each minute; what has arrived becomes a run like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from flows import schedules, watch
from flows.home import HEARTBEAT_S, connected, health_problem, prepare
from flows.schedules import Schedule, Watch
from flows.watch import Memory, Sent, Watcher
from medvision.core.errors import MedvisionError, UsageError
from medvision.store.files import make_output

if TYPE_CHECKING:
    from prefect.runner import Runner

Note = Callable[[str], None]
ATTEMPTS = 3
"""How often the manifest of a watch is handed in again whose run crashed."""

_POLL_S = 2.0
_LOOKS = 4
"""Looks within the time that a file must stay as it is."""


def serve(home: Path, note: Note) -> None:
    """Serve the schedules of `home` until SIGINT or SIGTERM; `note` is told what happens, in a line each.

    Raises:
        UsageError: if no server answers, or another process serves `home`.
    """
    home = prepare(home)
    with _only_one(home), connected(home) as url:
        note(f"serving the schedules of {home} with the server at {url}; Ctrl-C stops")
        asyncio.run(_Server(home, note).run())


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    lock = FileLock(home / "serve.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"another process serves the schedules of {home} already") from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Server:
    """One serving process: a runner of Prefect's, and what has been registered with it."""

    home: Path
    note: Note
    registered: dict[str, Schedule] = field(default_factory=dict)
    watches: dict[str, _Folder] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    async def run(self) -> None:
        stop = asyncio.Event()
        while not stop.is_set():
            await self._until_it_answers(stop)
            if not stop.is_set():
                await self._with_runner(stop)

    async def _until_it_answers(self, stop: asyncio.Event) -> None:
        _on_signals(stop)
        waiting = False
        while not stop.is_set() and (problem := await asyncio.to_thread(health_problem)):
            if not waiting:
                self.note(f"the server does not answer ({problem}); waiting for it")
            waiting = True
            await _sleep(stop, _POLL_S)

    async def _with_runner(self, stop: asyncio.Event) -> None:
        """Serve until told to stop, or until the runner gives the server up."""
        from prefect.runner import Runner

        self.registered.clear()
        runner = Runner(
            name="medvision",
            limit=1,
            pause_on_shutdown=False,
            query_seconds=_POLL_S,
            heartbeat_seconds=HEARTBEAT_S,
        )
        running = asyncio.create_task(runner.start())
        while not runner.started and not running.done():
            await asyncio.sleep(0.05)
        # The runner has put its own handler in place, which ends the process in the midst of things.
        _on_signals(stop)
        try:
            while not stop.is_set() and not running.done():
                await self._tick(runner)
                await _sleep(stop, min([_POLL_S, *(w.every_s for w in self.watches.values())]))
            if stop.is_set():
                await self._stop(runner)
        finally:
            running.cancel()
            ended = (await asyncio.gather(running, return_exceptions=True))[0]
        if isinstance(ended, Exception):
            self.note(f"the runner stopped ({ended}); starting it again")
            await _sleep(stop, _POLL_S)

    async def _stop(self, runner: Runner) -> None:
        """End the batch that runs, so that it saves its progress, and remember that it is to be continued."""
        for name, folder in self.watches.items():
            with self._said(name):
                await asyncio.to_thread(folder.before_stop)
        with contextlib.suppress(RuntimeError):  # it never started, so that there is nothing to stop
            await runner.astop()

    async def _tick(self, runner: Runner) -> None:
        """Take up what is new, changed or gone among the schedules, then look at the folders."""
        there = set()
        for name in schedules.names(self.home):
            there.add(name)
            with self._said(name):
                schedule = schedules.load(self.home, name)
                if self.registered.get(name) != schedule:
                    await self._take_up(runner, schedule)
                if name in self.watches:
                    await asyncio.to_thread(self.watches[name].look, self.note)
        for name in set(self.registered) - there:
            del self.registered[name]
            self.watches.pop(name, None)
            self.note(f"{name}: removed")

    async def _take_up(self, runner: Runner, schedule: Schedule) -> None:
        from flows import deployments

        missed = await asyncio.to_thread(deployments.missed_of, schedule)
        if schedule.pool is None:
            made = await asyncio.to_thread(deployments.deployment_of, schedule)
            identity = await runner.aadd_deployment(made)
        else:
            identity = await asyncio.to_thread(deployments.register, schedule)
        if missed and not schedule.paused:
            await asyncio.to_thread(deployments.catch_up, schedule, identity)
            self.note(f"{schedule.name}: {missed} due while nobody served; one run makes up for them")
        self.watches.pop(schedule.name, None)
        if isinstance(schedule.when, Watch):
            self.watches[schedule.name] = _Folder(schedule)
        self.registered[schedule.name] = schedule
        state = "paused" if schedule.paused else schedule.words()
        self.note(f"{schedule.name}: {state}; {schedule.request.inputs} to {schedule.request.out}")

    @contextlib.contextmanager
    def _said(self, name: str) -> Iterator[None]:
        """What goes wrong with one schedule is said once, and ends neither the others nor the process."""
        from httpx import HTTPError
        from prefect.exceptions import PrefectException

        try:
            yield
            self.told -= {line for line in self.told if line.startswith(f"{name}: ")}
        except (MedvisionError, OSError, PrefectException, HTTPError) as error:
            line = f"{name}: {' '.join(str(error).split()) or type(error).__name__}"
            if line not in self.told:
                self.note(line)
            self.told.add(line)


class _Folder:
    """One watched folder at work."""

    def __init__(self, schedule: Schedule) -> None:
        assert isinstance(schedule.when, Watch)
        request = schedule.request
        self.schedule = schedule
        self.every_s = min(schedule.when.settle_s / _LOOKS, 15.0)
        self.control = watch.control_folder(request.out, schedule.name)
        self.watcher = Watcher(
            request.inputs, request.patterns, schedule.when.settle_s, request.out, request.work.one_file
        )
        self.memory: Memory | None = None
        self.next_look = 0.0

    def look(self, note: Note) -> None:
        """Take what has arrived whole, and see what became of what was taken."""
        now = time.monotonic()
        if self.schedule.paused or now < self.next_look:
            return
        self.next_look = now + self.every_s
        if self.memory is None:
            make_output(self.control)
            self.memory = watch.read_memory(self.control)
        arrived = self.watcher.look(now, self.memory.taken)
        if arrived:
            self._take(self.memory, arrived, note)
        self._follow(note)

    def _take(self, memory: Memory, arrived: list[watch.Arrival], note: Note) -> None:
        """Manifest, then memory, then run: whichever is the last to be done, nothing is lost or done twice."""
        request = self.schedule.request
        files = watch.files_to_take(arrived)
        manifest = watch.write_manifest(self.control, request.inputs, files, request.work)
        taken = memory.taken | {arrival.key: arrival.digest for arrival in arrived}
        self._remember(Memory(taken=taken, sent=(*memory.sent, Sent(manifest=manifest.name))))
        count = request.work.plural(len(files)).replace(" ", " new ")
        note(f"{self.schedule.name}: {count}, listed in {manifest}")

    def _follow(self, note: Note) -> None:
        """Hand in what was not, hand in again what crashed, and forget what has come to an end."""
        if self.memory is None or not self.memory.sent:
            return
        left = []
        for sent in self.memory.sent:
            kept = self._step(sent, note)
            if kept is not None:
                left.append(kept)
        if tuple(left) != self.memory.sent:
            self._remember(self.memory.model_copy(update={"sent": tuple(left)}))

    def _step(self, sent: Sent, note: Note) -> Sent | None:
        from flows import deployments

        if sent.run is None:
            path = self.control / sent.manifest
            request = self.schedule.request.over(path)
            name = deployments.run_name(self.schedule.name, datetime.now(UTC), path)
            run = deployments.submit(self.schedule, request, name, f"{self.schedule.name} {sent.key}")
            return sent.model_copy(update={"run": run.id})
        found = deployments.read_run(sent.run)
        state = found.state if found else None
        if found is not None and (state is None or not state.is_final()):
            return sent
        if state is None or state.is_crashed() or (state.is_cancelled() and sent.interrupted):
            if sent.attempt >= ATTEMPTS and not sent.interrupted:
                note(f"{self.schedule.name}: {sent.manifest} crashed {sent.attempt} times and is given up")
                return None
            note(f"{self.schedule.name}: {sent.manifest} was cut short and is continued")
            return self._step(Sent(manifest=sent.manifest, attempt=sent.attempt + 1), note)
        note(
            f"{self.schedule.name}: {sent.manifest} {(state.name or '').lower()}: {state.message or ''}".rstrip(
                ": "
            )
        )
        return None

    def before_stop(self) -> None:
        """Mark what still runs: its run is about to be cancelled, and not because a person no longer wants it."""
        if self.memory is not None and self.memory.sent:
            self._follow(lambda _line: None)
            marked = tuple(sent.model_copy(update={"interrupted": True}) for sent in self.memory.sent)
            self._remember(self.memory.model_copy(update={"sent": marked}))

    def _remember(self, memory: Memory) -> None:
        watch.write_memory(self.control, memory)
        self.memory = memory


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, or wake as soon as the process is to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)

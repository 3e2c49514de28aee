"""What the commands print: progress, tables, names of files."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from medvision.report.format import visible
from medvision.store.records import SlideOutcome

if TYPE_CHECKING:
    from medvision.pipelines.batch import Progress as Progress_
    from medvision.pipelines.work import Work
    from medvision.training.loop import Check

# Of the processes of a distributed training, which are told their rank, the first alone speaks; errors come from any.
console = Console(highlight=False, emoji=False, quiet=os.environ.get("RANK", "0") != "0")
errors = Console(stderr=True, highlight=False, emoji=False)

_STYLES = {"done": "green", "resumed": "green", "unchanged": "cyan", "no tissue": "yellow"}


class _Rate(ProgressColumn):
    """Windows per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tiles/s" if task.speed else "", style="cyan")


class SlideProgress:
    """A bar per slide, fed by the pipeline's two callbacks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: object = None

    def on_plan(self, name: str, windows: int) -> None:
        """A slide begins; it has so many windows."""
        if self._task is not None:
            self._progress.remove_task(self._task)  # type: ignore[arg-type]
        self._task = self._progress.add_task(escape(visible(name)), total=windows)

    def on_windows(self, count: int) -> None:
        """So many windows more are done."""
        if self._task is not None:
            self._progress.advance(self._task, count)  # type: ignore[arg-type]


@contextmanager
def slide_progress() -> Iterator[SlideProgress]:
    """A live progress bar on a terminal; silent where the output is not one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        yield SlideProgress(progress)


@contextmanager
def batch_progress(
    on_outcome: Callable[[SlideOutcome], None], work: Work[Any]
) -> Iterator[Callable[[Progress_], None]]:
    """A bar over all items of a batch, by their bytes, with the rate of its work; each ended item is also printed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("[cyan]{task.fields[rate]}[/]"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task(work.items, total=None, rate="")
        seen: deque[tuple[float, int]] = deque(maxlen=40)

        def listen(state: Progress_) -> None:
            for outcome in state.new:
                on_outcome(outcome)
            seen.append((time.monotonic(), state.windows_done if work.unit == "tiles" else state.ended))
            elapsed = seen[-1][0] - seen[0][0]
            rate = (seen[-1][1] - seen[0][1]) / elapsed if elapsed > 0 else 0.0
            progress.update(
                bar,
                total=state.bytes_all,
                completed=state.bytes_done,
                description=f"{state.ended:,} of {work.plural(state.items)}",
                rate=f"{rate:,.{0 if rate >= 10 else 1}f} {work.unit}/s" if rate > 0 else "",
            )

        yield listen


def print_outcome(outcome: SlideOutcome, found: str = "region") -> None:
    """One line for one slide, image or scan; `found` is what its regions are called."""
    style = _STYLES.get(outcome.status, "red")
    score = "" if outcome.probability is None else f"  {_score(outcome, outcome.probability)}"
    regions = f", {outcome.regions} {found}{'s' * (outcome.regions != 1)}" if outcome.regions else ""
    reason = f"  {without_prefix(outcome.reason, outcome.slide)}" if outcome.reason else ""
    console.print(
        f"[{style}]{outcome.status:>11}[/]  [bold]{escape(visible(outcome.slide))}[/]{score}{regions}"
        f"  {outcome.seconds:.1f} s{escape(visible(reason))}",
        soft_wrap=True,
    )
    if outcome.set_aside:
        kept = f"what was in {outcome.name} before is of another content, and kept as {outcome.set_aside}"
        console.print(f"{'':>11}  {escape(visible(kept))}", soft_wrap=True)


def _score(outcome: SlideOutcome, probability: float) -> str:
    """Of a slide: the probability, and what follows from it. Of an image: its class, and the probability of one."""
    if not outcome.probability_of:
        return f"probability {probability:.3f} ({outcome.label})"
    named = "" if outcome.probability_of == outcome.label else f" {visible(outcome.probability_of)}"
    return escape(f"{visible(outcome.label or '')} ({probability:.3f}{named})")


def without_prefix(reason: str, slide: str) -> str:
    """A reason without the slide that it begins with, by any end of its path, for a line that has named it."""
    for name in (slide, Path(slide).name):
        head, found, rest = reason.partition(f"{name}: ")
        if found and (not head or (head.endswith("/") and ": " not in head)):
            return rest
    return reason


def print_made(label: str, path: Path) -> None:
    """Say where something was written."""
    console.print(f"{label}: [bold]{escape(visible(str(path)))}[/]", soft_wrap=True)


def print_check(run: str, check: Check) -> None:
    """One line for the state of a training. Scores of validation are losses with the sign turned."""
    score = "" if check.score is None else f"  validation loss {-check.score:.4f}"
    console.print(f"{run:>24}  step {check.step:5d}  loss {check.loss:.4f}{score}", markup=False)


def print_sensitivity(run: str, check: Check) -> None:
    """One line for the state of a training whose score of validation is a sensitivity."""
    score = "" if check.score is None else f"  validation sensitivity {check.score:.3f}"
    console.print(f"{run:>24}  step {check.step:5d}  loss {check.loss:.4f}{score}", markup=False)


def print_dice(run: str, check: Check) -> None:
    """One line for the state of a training whose score of validation is a Dice coefficient."""
    score = "" if check.score is None else f"  validation Dice {check.score:.3f}"
    console.print(f"{run:>24}  step {check.step:5d}  loss {check.loss:.4f}{score}", markup=False)


def print_note(note: str) -> None:
    """Something that a person should know, in one line."""
    console.print(note, markup=False, soft_wrap=True)


def print_trained(summary: str, **made: Path) -> int:
    """The figures of a training and what it wrote, by name; returns the status of a command that worked."""
    console.print(summary, markup=False, soft_wrap=True)
    for name, path in made.items():
        print_made(name.replace("_", " "), path)
    return 0


def table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A plain table of strings."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(escape(visible(cell)) for cell in row))
    return made

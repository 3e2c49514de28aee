"""How a run compares with the earlier ones over the same output: scores and quality that changed, verdicts by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvision.metrics.drift import RULE, Drift, Spread, compare
from medvision.report import format as text
from medvision.store.ledger import LEDGER, Ledger
from medvision.store.ledger_records import PastResult, RunSummary
from medvision.store.records import ItemKind

LARGEST = 15
"""Slides listed by the change of their probability."""
NEWEST = 12
"""Runs listed."""

_ORDER = (
    "done",
    "unchanged",
    "resumed",
    "no tissue",
    "QC rejected",
    "failed",
    "interrupted",
    "begun",
    "planned",
)
_TONES = {
    "no tissue": "neutral",
    "QC rejected": "warning",
    "failed": "failed",
    "interrupted": "failed",
    "begun": "neutral",
    "planned": "neutral",
}
_CHANGED = {"slide": "{item} content", "model": "model", "config": "settings", "code": "code"}


@dataclass(frozen=True)
class Change:
    """A slide's probability now and in the last earlier run that scored it."""

    name: str
    earlier: float
    now: float
    label_changed: bool
    earlier_text: str
    now_text: str
    change_text: str
    labels: str
    cause: str
    run_id: str


@dataclass(frozen=True)
class MeasureDrift:
    """A line of the table of measures. Positions in the plot are shares of its width."""

    name: str
    now: str
    earlier: str
    now_box: tuple[float, ...]
    earlier_box: tuple[float, ...]
    counts: str
    gap: str
    p_value: str
    verdict: str
    flagged: bool


@dataclass(frozen=True)
class RunLine:
    """A run with its verdicts as shares of a bar: `(start, width, tone)`."""

    run_id: str
    started: str
    slides: str
    counts: str
    bar: tuple[tuple[float, float, str], ...]
    this: bool


@dataclass(frozen=True)
class Across:
    """The section on runs over the same slides; a part that has nothing to say is empty."""

    changes: tuple[Change, ...]
    points: tuple[tuple[float, float, bool, str], ...]
    """Earlier probability, probability now, whether the label changed, name; for every slide scored twice."""
    changes_note: str
    measures: tuple[MeasureDrift, ...]
    measures_note: str
    rule: str
    """What is flagged among the measures."""
    runs: tuple[RunLine, ...]
    runs_note: str


def across_runs(
    folder: Path, run_id: str, item: ItemKind = "slide"
) -> tuple[Across | None, dict[str, PastResult]]:
    """The section of the run `run_id`, None for the first run of all; and the last result of each item, by name.

    Raises:
        StoreError: if the ledger is absent or cannot be read.
        UsageError: if the ledger has no such run.
    """
    with Ledger(folder / LEDGER, read_only=True) as ledger:
        this = ledger.run(run_id).summary
        runs, results = ledger.runs(), ledger.results()
    # Of runs that began later, if the page is made again, nothing is told.
    runs = runs[[run.run_id for run in runs].index(this.run_id) :]
    ids = {run.run_id for run in runs}
    known = sorted((one for one in results if one.run_id in ids), key=lambda one: one.place)
    last = {one.name: one for one in known if one.status is not None}
    if len(runs) == 1:
        return None, last
    now = {one.name: one for one in known if one.run_id == this.run_id}
    before = [one for one in known if one.run_id != this.run_id]
    pairs = _pairs(now, before)
    changes = [_change(*pair, item) for pair in pairs]
    moved = [one for one in changes if one.now != one.earlier]
    measures = _measures(now, before)
    return Across(
        changes=tuple(sorted(moved, key=lambda one: (-abs(one.now - one.earlier), one.name))[:LARGEST]),
        points=tuple((one.earlier, one.now, one.label_changed, one.name) for one in changes),
        changes_note=_changes_note(changes, moved, item),
        measures=tuple(_measure_line(name, one) for name, one in measures.items()),
        measures_note=_measures_note(measures, item),
        rule=RULE,
        runs=tuple(_run_line(run, run.run_id == this.run_id) for run in runs[:NEWEST]),
        runs_note=f"The newest {NEWEST} of {len(runs)} runs." if len(runs) > NEWEST else "",
    ), last


def _scored(result: PastResult) -> bool:
    return result.probability is not None and result.status in ("done", "unchanged", "resumed")


def _pairs(now: dict[str, PastResult], before: Sequence[PastResult]) -> list[tuple[PastResult, PastResult]]:
    """Each slide scored now with the last earlier result that scored it, known by its name, else by its content."""
    by_name = {one.name: one for one in before if _scored(one)}
    by_content = {one.digests["slide"]: one for one in before if _scored(one) and "slide" in one.digests}
    pairs = []
    for name, one in sorted(now.items()):
        earlier = by_name.get(name) or by_content.get(one.digests.get("slide", ""))
        if _scored(one) and earlier is not None:
            pairs.append((earlier, one))
    return pairs


def _change(earlier: PastResult, now: PastResult, item: ItemKind) -> Change:
    before, after = earlier.probability or 0.0, now.probability or 0.0
    changed = earlier.label != now.label
    return Change(
        # The folder of an image does not say where the file was; its id does.
        name=text.visible(now.slide_id if item == "image" else now.name),
        earlier=before,
        now=after,
        label_changed=changed,
        earlier_text=text.probability(before, after),
        now_text=text.probability(after, before),
        change_text=f"{after - before:+.3f}".replace("-", "−"),
        labels=f"{earlier.label} → {now.label}" if changed else str(now.label or ""),
        cause=_cause(earlier.digests, now.digests).format(item=item),
        run_id=earlier.run_id,
    )


def _cause(earlier: dict[str, str], now: dict[str, str]) -> str:
    """What the two results were not made from alike."""
    changed = [words for key, words in _CHANGED.items() if earlier.get(key) != now.get(key)]
    if changed:
        return ", ".join(changed)
    return "library versions" if earlier.get("result") != now.get("result") else "nothing that was recorded"


def _changes_note(changes: Sequence[Change], moved: Sequence[Change], item: ItemKind) -> str:
    if not changes:
        return f"No {item} of this run was scored by an earlier one."
    turned = sum(one.label_changed for one in changes)
    scored = text.plural(len(changes), item)
    if not moved and not turned:
        return f"{scored} scored before: every probability is the same."
    listed = f" The {LARGEST} largest changes are listed." if len(moved) > LARGEST else ""
    return (
        f"{scored} scored before: {text.count(len(moved))} with another probability, "
        f"{text.count(turned)} with another label.{listed}"
    )


def _measures(now: dict[str, PastResult], before: Sequence[PastResult]) -> dict[str, Drift]:
    """Each slide counts once among the earlier results, as it was last found."""
    then = {one.name: one for one in before if one.quality}
    scores = {one.name: one for one in before if _scored(one)}
    sides = [_values(now, now), _values(then, scores)]
    names = [name for name in sides[0] if name in sides[1]]
    return compare({name: (sides[0][name], sides[1][name]) for name in names})


def _values(measured: dict[str, PastResult], scored: dict[str, PastResult]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {
        "probability": [
            one.probability for one in scored.values() if _scored(one) and one.probability is not None
        ]
    }
    for one in measured.values():
        for measure in one.quality:
            if measure.value == measure.value:
                values.setdefault(measure.name, []).append(measure.value)
    return values


def _measures_note(measures: Mapping[str, Drift], item: ItemKind) -> str:
    judged = [name for name, drift in measures.items() if drift.gap is not None]
    drifted = [text.visible(name) for name in judged if measures[name].flagged]
    if not judged:
        return f"Too few {item}s to judge whether they are like the earlier ones."
    if not drifted:
        return f"{text.plural(len(judged), 'measure')} judged: none has drifted."
    return f"{text.plural(len(judged), 'measure')} judged, drifted: {', '.join(drifted)}."


def _measure_line(name: str, drift: Drift) -> MeasureDrift:
    low = min(drift.now.lowest, drift.earlier.lowest)
    width = max(drift.now.highest, drift.earlier.highest) - low
    judged = drift.gap is not None
    return MeasureDrift(
        name=text.sentence(text.visible(name)),
        now=_quartiles(drift.now),
        earlier=_quartiles(drift.earlier),
        now_box=_box(drift.now, low, width),
        earlier_box=_box(drift.earlier, low, width),
        counts=f"{text.count(drift.now.count)} / {text.count(drift.earlier.count)}",
        gap=f"{drift.gap:.2f}" if drift.gap is not None else "–",
        p_value="–"
        if drift.p_value is None
        else "<0.001"
        if drift.p_value < 0.001
        else f"{drift.p_value:.3f}",
        verdict="Drifted" if drift.flagged else "Alike" if judged else "Too few",
        flagged=drift.flagged,
    )


def _quartiles(spread: Spread) -> str:
    return f"{spread.median:.3g} ({spread.lower:.3g} – {spread.upper:.3g})"


def _box(spread: Spread, low: float, width: float) -> tuple[float, ...]:
    values = (spread.lowest, spread.lower, spread.median, spread.upper, spread.highest)
    return tuple(round((value - low) / width, 4) if width else 0.5 for value in values)


def _run_line(run: RunSummary, this: bool) -> RunLine:
    counts = {verdict: run.counts[verdict] for verdict in _ORDER if run.counts.get(verdict)}
    total = max(sum(counts.values()), 1)
    bar, start = [], 0.0
    for verdict, count in counts.items():
        bar.append((round(start, 4), round(count / total, 4), _TONES.get(verdict, "negative")))
        start += count / total
    return RunLine(
        run_id=text.visible(run.run_id),
        started=run.start.started_utc,
        slides=text.count(run.start.slides),
        counts=", ".join(f"{text.count(count)} {verdict}" for verdict, count in counts.items()),
        bar=tuple(bar),
        this=this,
    )

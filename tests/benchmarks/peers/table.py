"""What the comparison measured, as JSON and as one table in Markdown. Standard library alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "medvision"
FEW = 0.8
"""A tool that gives the network less than this share of the median tool's tiles is marked: it may skip work."""


@dataclass
class Row:
    """One tool with one network and one setting. `seconds` are whole processes, one for each round that counts."""

    tool: str
    network: str
    setting: str
    versions: dict[str, str] = field(default_factory=dict)
    tiles: int = 0
    seconds: list[float] = field(default_factory=list)
    memory_mb: float | None = None
    """Peak over all its processes, shared pages counted once; from a run that is not timed."""
    note: str = ""
    problem: str = ""
    """Why it could not be run; empty where it could."""

    @property
    def rates(self) -> list[float]:
        """Tiles per second of the whole process in each round, over the tiles that the network was given."""
        return [self.tiles / seconds for seconds in self.seconds]

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)


@dataclass
class Ratio:
    """A row of ours over the best peer with the same network, round by round."""

    network: str
    setting: str
    peer: str
    values: list[float]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)


@dataclass
class Comparison:
    """All that one run measured, on what."""

    slide: str
    rounds: int
    machine: dict[str, Any]
    rows: list[Row]

    def best(self) -> list[Row]:
        """The fastest setting of each peer and network, every row of ours, and what could not be run."""
        kept = []
        for (tool, _), rows in _grouped(self.rows, lambda row: (row.tool, row.network)).items():
            ran = [row for row in rows if not row.problem]
            if tool == OURS or not ran:
                kept += rows if tool == OURS else rows[:1]
            else:
                kept.append(max(ran, key=lambda row: row.rate))
        return kept

    def ratios(self) -> list[Ratio]:
        """Ours over the best peer, for each network and setting of ours; none where no peer could be run."""
        found = []
        for network, rows in _grouped(self.best(), lambda row: row.network).items():
            peers = [row for row in rows if row.tool != OURS and not row.problem]
            if not peers:
                continue
            best = max(peers, key=lambda row: row.rate)
            for row in rows:
                if row.tool == OURS and not row.problem:
                    values = [ours / peer for ours, peer in zip(row.rates, best.rates, strict=True)]
                    found.append(Ratio(network, row.setting, best.tool, values))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every value of every round, with the medians."""
        data = asdict(self)
        for entry, row in zip(data["rows"], self.rows, strict=True):
            entry["tiles_per_second"] = None if row.problem else row.rate
        data["ratios"] = [{**asdict(ratio), "median": ratio.median} for ratio in self.ratios()]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Comparison:
        """What `as_dict` gave."""
        names = Row.__dataclass_fields__
        rows = [Row(**{name: entry[name] for name in names}) for entry in data["rows"]]
        return cls(data["slide"], data["rounds"], data["machine"], rows)

    def markdown(self) -> str:
        """One table for all networks, then the ratios, then what the marks mean."""
        return (
            "\n".join([*self._head(), "", *self._table(), "", *self._ratio_table(), "", *self._notes()])
            + "\n"
        )

    def _head(self) -> list[str]:
        said = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return [f"Slide: {self.slide}. {self.rounds} interleaved rounds. {said}."]

    def _table(self) -> list[str]:
        lines = [
            "| network | tool | setting | tiles | seconds | tiles/s, median (range) | peak memory, MB |",
            "|---|---|---|---:|---:|---:|---:|",
        ]
        for network, rows in _grouped(self.best(), lambda row: row.network).items():
            ran = [row for row in rows if not row.problem]
            usual = statistics.median(row.tiles for row in ran) if ran else 0
            for row in sorted(ran, key=lambda row: -row.rate):
                mark = " (few)" if row.tiles < FEW * usual else ""
                setting = ", ".join(part for part in (row.setting, row.note) if part)
                spread = f"{row.rate:.0f} ({min(row.rates):.0f} to {max(row.rates):.0f})"
                memory = "" if row.memory_mb is None else f"{row.memory_mb:,.0f}"
                seconds = f"{statistics.median(row.seconds):.1f}"
                cells = (network, _named(row), setting, f"{row.tiles:,}{mark}", seconds, spread, memory)
                lines.append(f"| {' | '.join(cells)} |")
            lines += [
                f"| {network} | {_named(row)} | could not be run: {row.problem} | | | | |"
                for row in rows
                if row.problem
            ]
        return lines

    def _ratio_table(self) -> list[str]:
        lines = ["| medvision over the best peer | peer | ratio, median (range) |", "|---|---|---:|"]
        for ratio in self.ratios():
            spread = f"{ratio.median:.2f} ({min(ratio.values):.2f} to {max(ratio.values):.2f})"
            lines.append(f"| {ratio.network}, {ratio.setting} | {ratio.peer} | {spread} |")
        return lines

    def _notes(self) -> list[str]:
        packages = {f"{name} {version}" for row in self.rows for name, version in row.versions.items()}
        lines = [f"Packages: {', '.join(sorted(packages))}."]
        if any("(few)" in line for line in self._table()):
            lines.append(f"(few): under {FEW:.0%} of the median tool's tiles; the tool left out tissue.")
        return lines


def _named(row: Row) -> str:
    """The tool with its own version."""
    version = row.versions.get(row.tool.lower())
    return f"{row.tool} {version}" if version else row.tool


def _grouped(rows: Iterable[Row], key: Any) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def near_best(rows: Sequence[Row], within: float) -> list[Row]:
    """Of one tool's settings with one network those within a share of the fastest: all of ours, and what failed."""
    ran = [row for row in rows if not row.problem and row.tool != OURS]
    fastest = max((row.rate for row in ran), default=0.0)
    return [row for row in rows if row not in ran or row.rate >= (1 - within) * fastest]

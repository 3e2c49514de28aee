"""What a benchmark measured: figures with a value in each round, their aims, and which ratios fell since before."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medvision.core.errors import UsageError

TOLERANCE = 0.15
"""Share by which a ratio may be below an earlier one before it counts as fallen."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Something with a value in each round. `unit` is empty for a ratio.

    `aim` is reached from above, or from below where `at_most`; None for what is context rather than a target.
    """

    group: str
    name: str
    values: tuple[float, ...]
    unit: str = ""
    aim: float | None = None
    at_most: bool = False

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest of the rounds."""
        return min(self.values), max(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median is at the aim or beyond; None without an aim."""
        if self.aim is None:
            return None
        return self.median <= self.aim if self.at_most else self.median >= self.aim


@dataclass(frozen=True, slots=True)
class RatioOf:
    """One workload's rate over another's, taken round by round."""

    group: str
    name: str
    above: str
    below: str
    aim: float


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """All that a run of the benchmark measured, on what."""

    kind: Literal["workloads", "growth"]
    slide: str
    rounds: int
    machine: dict[str, str | int]
    software: dict[str, str]
    measures: tuple[Figure, ...]
    ratios: tuple[Figure, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every value of every round, with the medians."""
        data = asdict(self)
        rows = [*data["measures"], *data["ratios"]]
        for row, figure in zip(rows, (*self.measures, *self.ratios), strict=True):
            row["median"] = figure.median
        return data


def ratios(values: Mapping[str, Sequence[float]], wanted: Sequence[RatioOf]) -> Iterator[Figure]:
    """The ratios both of whose workloads were run."""
    for ratio in wanted:
        if ratio.above in values and ratio.below in values:
            pairs = zip(values[ratio.above], values[ratio.below], strict=True)
            yield Figure(ratio.group, ratio.name, tuple(a / b for a, b in pairs), aim=ratio.aim)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios of now beside those of an earlier run: `fallen` as (before, now), and the names of only one of them."""

    compared: int
    fallen: tuple[tuple[Figure, Figure], ...]
    only_before: tuple[str, ...]
    only_now: tuple[str, ...]


def read_baseline(path: Path) -> BenchmarkReport:
    """A report that `--json` wrote.

    Raises:
        UsageError: if it cannot be read as one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        for kind in ("measures", "ratios"):
            rows = [{k: v for k, v in row.items() if k != "median"} for row in data[kind]]
            data[kind] = tuple(Figure(**row | {"values": tuple(row["values"])}) for row in rows)
        return BenchmarkReport(**data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} is no report of `medvision benchmark --json`: {error}") from error


def compare(now: BenchmarkReport, before: BenchmarkReport, tolerance: float = TOLERANCE) -> Comparison:
    """Which ratios fell. Seconds and rates are not compared: they belong to the machine.

    A ratio fell where even its best round of now is below every round of before, and more than `tolerance` below
    their median: by more than the tolerance, and beyond the spread of both.

    Raises:
        UsageError: if the two did not measure the same on the same kind of slide.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"a tolerance of {tolerance:g} is not a share from 0 up to 1")
    if (now.kind, now.slide) != (before.kind, before.slide):
        raise UsageError(
            f"{now.kind} on {now.slide!r} cannot be compared with {before.kind} on {before.slide!r}; "
            "run the benchmark as that one was run"
        )
    old = {figure.name: figure for figure in before.ratios}
    new = {figure.name: figure for figure in now.ratios}
    both = [name for name in new if name in old]
    fallen = [(old[name], new[name]) for name in both if _fell(old[name], new[name], tolerance)]
    return Comparison(
        len(both),
        tuple(fallen),
        tuple(name for name in old if name not in new),
        tuple(name for name in new if name not in old),
    )


def _fell(before: Figure, now: Figure, tolerance: float) -> bool:
    if now.at_most:
        # Here more is worse: the same rule, turned round.
        return now.spread[0] > max(before.spread[1], before.median / (1 - tolerance))
    return now.spread[1] < min(before.spread[0], before.median * (1 - tolerance))

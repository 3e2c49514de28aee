"""The fault table: what was done to the program, how often, and how each case ended.

A test takes the fixture `fault_row` and says what its row is. With `--fault-table PATH` the rows become a Markdown
table when the session ends; under pytest-xdist each worker leaves its rows in a file, and the controller joins them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_FAILED = pytest.StashKey[bool]()


@dataclass
class Row:
    """A row under way: `counts` of outcomes by name, and a `note` where the counts do not tell all."""

    fault: str
    target: str
    counts: Counter[str] = field(default_factory=Counter)
    note: str = ""

    def count(self, outcome: str, times: int = 1) -> None:
        self.counts[outcome] += times


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="write the fault table to this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    table = config.getoption("--fault-table", None)
    if table is not None and not hasattr(config, "workerinput"):
        shutil.rmtree(_folder(table), ignore_errors=True)
        _folder(table).mkdir(parents=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.getoption("--fault-table", None)
    if table is not None and not hasattr(session.config, "workerinput"):
        table.write_text(markdown(_folder(table)), encoding="utf-8")
        shutil.rmtree(_folder(table))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.getoption("--fault-table", None)
    if table is not None and table.is_file():
        terminalreporter.section("faults")
        terminalreporter.write(table.read_text(encoding="utf-8"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def fault_row(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], Row]]:
    """`fault_row(fault, target)` begins a row of the table; the test's own passing or failing completes it."""
    rows: list[Row] = []

    def begin(fault: str, target: str) -> Row:
        rows.append(Row(fault, target))
        return rows[-1]

    yield begin
    table = request.config.getoption("--fault-table", None)
    if table is None:
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    with (_folder(table) / f"{worker}.jsonl").open("a", encoding="utf-8") as stream:
        for row in rows:
            kept = {
                "fault": row.fault,
                "target": row.target,
                "counts": row.counts,
                "note": row.note,
                "failed": request.node.stash.get(_FAILED, False),
            }
            stream.write(json.dumps(kept) + "\n")


def markdown(folder: Path) -> str:
    """The rows of all workers as a table. Tests that share a fault and a target share a row."""
    joined: dict[tuple[str, str], dict[str, object]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            row = joined.setdefault(
                (told["fault"], told["target"]), {"counts": Counter(), "notes": [], "failed": False}
            )
            row["counts"].update(told["counts"])  # type: ignore[attr-defined]
            row["failed"] |= told["failed"]  # type: ignore[operator]
            if told["note"] and told["note"] not in row["notes"]:  # type: ignore[operator]
                row["notes"].append(told["note"])  # type: ignore[attr-defined]
    lines = ["| fault | target | cases | result |", "|---|---|---:|---|"]
    for (fault, target), row in sorted(joined.items()):
        counts: Counter[str] = row["counts"]  # type: ignore[assignment]
        words = [f"{count} {outcome}" for outcome, count in counts.most_common()]
        result = "; ".join([", ".join(words), *row["notes"]])  # type: ignore[misc]
        verdict = "**FAILED** " if row["failed"] else ""
        lines.append(f"| {fault} | {target} | {counts.total()} | {verdict}{result} |")
    return "\n".join(lines) + "\n"


def _folder(table: Path) -> Path:
    return table.absolute().with_name(f".{table.name}.rows")

"""What every evaluation writes: JSON (the truth), a Markdown table, plots, a page, and a table to print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from medvision.evaluations.base import Published
from medvision.report.html import read_template, render_page
from medvision.report.plots import Plot
from medvision.store.files import atomic_write, make_output

NONE = "–"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure as text, with its 95% interval; `main` ones are set in bold."""

    name: str
    value: str
    interval: str = NONE
    main: bool = False


@dataclass(frozen=True, slots=True)
class PageTable:
    """A further table of the page. The first `words` columns are words, the others numbers.

    `shades`, if any, gives each number of each row a depth from 0 to 9.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""
    shades: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class EvaluationPage:
    """Everything that is written about one evaluation.

    `name` is the stem of its files. `columns` maps the names of published figures to the heads of the table of
    comparison, and `ours` the same names to our values as text. `data` is what the JSON holds, `files` are further
    files by name.
    """

    name: str
    title: str
    kicker: str
    heading: str
    summary: str
    rows: tuple[Row, ...]
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]
    tables: tuple[PageTable, ...]
    published: tuple[Published, ...] = ()
    published_note: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    ours: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def write_page(page: EvaluationPage, out: Path) -> dict[str, Path]:
    """Write NAME.json, NAME.md, NAME.html, each plot as PNG and SVG, and further files into `out`; returns their paths
    by file name.

    `out` is made if absent; equal pages give equal bytes.

    Raises:
        UsageError: if `out` cannot be written to.
    """
    make_output(out)
    published = [{"note": page.published_note, **asdict(entry)} for entry in page.published]
    content = {
        **page.data,
        "notes": list(page.notes),
        **({"published": published} if published else {}),
    }
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    files = {f"{page.name}.json": text.encode(), f"{page.name}.md": markdown(page).encode()}
    for plot in page.plots:
        files |= {f"{plot.name}.png": plot.png, f"{plot.name}.svg": plot.svg}
    files |= page.files
    files[f"{page.name}.html"] = html(page)
    for name, data in files.items():
        atomic_write(out / name, data)
    return {name: out / name for name in files}


def html(page: EvaluationPage) -> bytes:
    """The page: self-contained, escaped, without script."""
    head, published = _published_table(page)
    style = read_template("common.css") + read_template("evaluation.css")
    return render_page(
        "evaluation.html.j2", style=style, script="", page=page, published_head=head, published_rows=published
    )


def markdown(page: EvaluationPage) -> str:
    """The figures, and below them the published ones beside ours, as Markdown."""
    lines = [f"# {page.heading}", "", "**Research use only: not for diagnosis.**", "", f"{page.summary}", ""]
    lines += ["| figure | value | 95% interval |", "|---|---:|---:|"]
    for row in page.rows:
        name, value = (f"**{text}**" if row.main else text for text in (_cell(row.name), row.value))
        lines.append(f"| {name} | {value} | {row.interval} |")
    for plot in page.plots:
        lines += ["", f"![{plot.alt}]({plot.name}.png)"]
    for table in page.tables:
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += _markdown_table(table.head, table.rows, table.words)
    if page.notes:
        lines += ["", "## Notes", "", *(f"- {_cell(note)}" for note in page.notes)]
    if not page.published:
        return "\n".join(lines) + "\n"
    head, rows = _published_table(page)
    lines += ["", "## Beside published figures", "", f"Those of others: {page.published_note}.", ""]
    ours = [
        "**these predictions**",
        *(page.ours.get(key, NONE) for key in page.columns),
        NONE,
        "this evaluation",
    ]
    lines += _markdown_table(head, [tuple(ours), *rows], 1, last_is_words=True)
    return "\n".join(lines) + "\n"


def terminal_table(page: EvaluationPage) -> Table:
    """The figures with intervals, and the published ones apart below them."""
    table = Table(title=page.title, caption=page.summary, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    for row in page.rows:
        table.add_row(row.name, row.value, row.interval, style="bold" if row.main else "")
    if page.published:
        table.add_section()
        table.add_row(page.published_note, "", "", style="dim italic")
    for entry in page.published:
        figures = [f"{page.columns.get(name, name)} {value:g}" for name, value in entry.figures.items()]
        table.add_row(entry.method, ", ".join(figures), "", style="dim")
    return table


def number(value: float | None) -> str:
    """A figure with three decimals."""
    return "not measured" if value is None else f"{value:.3f}"


def interval_text(interval: tuple[float, float] | None) -> str:
    """An interval with three decimals, or a dash."""
    return f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else NONE


def _published_table(page: EvaluationPage) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the published figures: method, a column per figure, all others, source."""
    rows = []
    for entry in page.published:
        others = [f"{name} {value:g}" for name, value in entry.figures.items() if name not in page.columns]
        own = [f"{entry.figures[key]:g}" if key in entry.figures else NONE for key in page.columns]
        rows.append((entry.method, *own, ", ".join(others) or NONE, entry.source))
    return ("method", *page.columns.values(), "other", "source"), rows


def _markdown_table(
    head: Sequence[str], rows: Sequence[tuple[str, ...]], words: int, *, last_is_words: bool = False
) -> list[str]:
    rules = ["---" if i < words else "---:" for i in range(len(head))]
    if last_is_words:
        rules[-1] = rules[-2] = "---"
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rules)}|"]
    return lines + [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]


def _cell(text: str) -> str:
    """Text that cannot end a cell, a line or become markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

"""`medvision benchmark`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape

from medvision.cli.console import console, errors, print_made
from medvision.core.errors import UsageError
from medvision.report.format import visible

if TYPE_CHECKING:
    from rich.table import Table

    from medvision.pipelines.benchmark_figures import BenchmarkReport, Comparison, Figure


def benchmark(
    slide: Path | None = None,
    /,
    *,
    quick: bool = False,
    growth: bool = False,
    as_json: Annotated[Path | None, Parameter(name="--json")] = None,
    against: Path | None = None,
    tolerance: float = 0.15,
    device: str = "auto",
    only: tuple[str, ...] = (),
) -> int:
    """Measure reading, engine, networks and whole commands against their limits, in interleaved rounds of one run.

    Example: medvision benchmark --quick

    Parameters
    ----------
    slide
        Slide to measure on. Default: a synthetic one of 30,000 px (6,000 px with --quick).
    quick
        Two rounds on less work, rather than seven. With --growth: slides up to 40,000 px and 50 small ones.
    growth
        Measure instead how time and memory grow with tissue, slides and processes; takes about ten minutes.
    as_json
        File for every value of every round.
    against
        A file that --json wrote earlier: ratios are compared, and the exit status is 1 where one fell.
    tolerance
        Share by which a ratio may be below the earlier one, beyond the spread of both.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    only
        What to measure, where not all is wanted: reading, engine, network, dense, nodules.
    """
    if growth and (slide is not None or only):
        raise UsageError(
            "--growth makes its own slides and measures nothing else; pass no slide and no --only"
        )
    from medvision.pipelines.benchmark import run_benchmark, run_growth
    from medvision.pipelines.benchmark_figures import compare, read_baseline
    from medvision.store.files import atomic_write, make_output

    if as_json is not None:
        make_output(as_json.parent)
        if as_json.is_dir():
            raise UsageError(f"--json {as_json} is a folder; name a file")
    before = None if against is None else read_baseline(against)

    with errors.status("preparing") as status:

        def tell(what: str) -> None:
            status.update(what)

        if growth:
            report = run_growth(quick=quick, device=device, tell=tell)
        else:
            report = run_benchmark(slide, quick=quick, device=device, only=only, tell=tell)
    _print(report)
    if as_json is not None:
        atomic_write(as_json, (json.dumps(report.as_dict(), indent=2) + "\n").encode())
        print_made("values", as_json)
    if before is None:
        return 0
    found = compare(report, before, tolerance)
    _print_comparison(found)
    return 1 if found.fallen else 0


def _print(report: BenchmarkReport) -> None:
    on = ", ".join(str(value) for value in (report.machine["processor"], f"{report.machine['cores']} cores"))
    rounds = f"{report.rounds} rounds" if report.rounds > 1 else "one round"
    console.print(f"[bold]{escape(visible(report.slide))}[/], {rounds}, on {on}\n", soft_wrap=True)
    aimed = [figure for figure in report.measures if figure.aim is not None]
    context = [figure for figure in report.measures if figure.aim is None]
    for title, figures in (
        ("Ratios", report.ratios),
        ("Times and memory", aimed),
        ("What they come from", context),
    ):
        if figures:
            console.print(figure_table(title, figures))
            console.print()
    judged = [figure.met for figure in (*report.ratios, *aimed)]
    console.print(f"{sum(map(bool, judged))} of {len(judged)} aims met")


def figure_table(title: str, figures: Sequence[Figure]) -> Table:
    """Figures under the names of their groups; columns without any content are left out."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    made.add_column("")
    made.add_column("median", justify="right", no_wrap=True)
    ranges, aims = (
        any(len(figure.values) > 1 for figure in figures),
        any(figure.aim is not None for figure in figures),
    )
    if ranges:
        made.add_column("range", justify="right", no_wrap=True)
    if aims:
        made.add_column("aim", justify="right", no_wrap=True)
        made.add_column("", no_wrap=True)
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            made.add_row(f"[bold cyan]{group}[/]")
        row = [f"  {figure.name}", f"{_number(figure.median, figure.unit)} {figure.unit}".rstrip()]
        if ranges:
            spread = " to ".join(_number(value, figure.unit) for value in figure.spread)
            row.append(spread if len(figure.values) > 1 else "")
        if aims:
            row.append(_aim(figure))
            row.append({None: "", True: "[green]met[/]", False: "[red]not met[/]"}[figure.met])
        made.add_row(*row)
    return made


def _number(value: float, unit: str) -> str:
    """Three digits that mean something: 1,234 and 56.7 and 0.891."""
    if not unit:
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"{'≤' if figure.at_most else '≥'} {figure.aim:g}"


def _print_comparison(found: Comparison) -> None:
    console.print()
    for old, new in found.fallen:
        rounds = " to ".join(f"{value:.2f}" for value in new.spread)
        console.print(
            f"[red]fell[/]  {new.group}: {new.name}: {old.median:.2f} before, {new.median:.2f} now ({rounds})",
            soft_wrap=True,
        )
    for names, where in ((found.only_before, "not measured here"), (found.only_now, "not measured before")):
        for name in names:
            console.print(f"[yellow]{where}[/]  {name}", soft_wrap=True)
    console.print(f"{len(found.fallen)} of {found.compared} ratios fell")

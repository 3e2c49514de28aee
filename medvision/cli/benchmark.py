"""`medvision benchmark`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import console, errors, print_made, table
from medvision.core.errors import UsageError


def benchmark(
    slide: Path | None = None,
    /,
    *,
    quick: bool = False,
    as_json: Annotated[Path | None, Parameter(name="--json")] = None,
    device: str = "auto",
    only: tuple[str, ...] = (),
) -> int:
    """Measure reading, engine and network against their limits, in interleaved rounds of one run.

    Example: medvision benchmark --quick

    Parameters
    ----------
    slide
        Slide to measure on. Default: a synthetic one of 30,000 px (8,000 px with --quick).
    quick
        Three rounds on less work, rather than seven.
    as_json
        File for every value of every round.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    only
        Names of workloads to run, where not all are wanted.
    """
    from medvision.pipelines.benchmark import run_benchmark
    from medvision.store.files import atomic_write, make_output

    if as_json is not None:
        make_output(as_json.parent)
        if as_json.is_dir():
            raise UsageError(f"--json {as_json} is a folder; name a file")

    with errors.status("preparing") as status:

        def tell(number: int, rounds: int) -> None:
            status.update(f"round {number} of {rounds}" if number else "warming up")

        report = run_benchmark(slide, quick=quick, device=device, only=only, on_round=tell)
    rows = [
        (m.name, f"{m.median:,.4g}", f"{m.spread[0]:,.4g} to {m.spread[1]:,.4g}", m.unit)
        for m in report.measures
    ]
    console.print(table(f"{report.slide}, {report.rounds} rounds", ("what", "median", "range", "unit"), rows))
    console.print()
    ratios = [
        (
            r.name,
            f"{r.median:.2f}",
            f"{r.spread[0]:.2f} to {r.spread[1]:.2f}",
            "" if r.target is None else f"{r.target:g}",
        )
        for r in report.ratios
    ]
    console.print(table("Ratios", ("what", "median", "range", "aim"), ratios))
    if as_json is not None:
        atomic_write(as_json, (json.dumps(report.as_dict(), indent=2) + "\n").encode())
        print_made("values", as_json)
    return 0

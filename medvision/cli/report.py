"""`medvision report`."""

from __future__ import annotations

from pathlib import Path

from medvision.cli.console import print_made


def report(run: Path, /) -> int:
    """Render the reports of a run again from what it stored, without recomputing.

    Example: medvision report results

    Parameters
    ----------
    run
        The output folder of an analysis, or the folder of one slide in it.
    """
    from medvision.report.render import render_reports

    for path in render_reports(run):
        print_made("report", path)
    return 0

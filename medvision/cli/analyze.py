"""`medvision analyze`."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import errors, print_made, print_outcome, slide_progress
from medvision.core.errors import MedvisionError
from medvision.pipelines.config import AnalyzeConfig


def analyze(
    slides: list[Path],
    /,
    *,
    out: Path,
    config: Annotated[AnalyzeConfig, Parameter(name="*")] = AnalyzeConfig(),  # noqa: B008 - frozen
    flow: bool = False,
) -> int:
    """Analyse slides: heatmap, lesion regions, score and report for each.

    Example: medvision analyze slide1.svs slide2.svs --out results

    Each slide gets a folder with report.html, report.pdf, heatmap.ome.tiff, regions.geojson (for QuPath) and
    result.json. A slide whose result is already there, made from the same content, model and parameters, is kept.

    Parameters
    ----------
    slides
        Slide files.
    out
        Output folder; made when absent.
    flow
        Run as a Prefect flow, one task per slide, on Prefect's embedded server.
    """
    if not slides:
        raise MedvisionError("no slide was given; example: medvision analyze slide.svs --out results")
    # The deep-learning library takes longest to load: it begins while the slides are looked at.
    threading.Thread(target=importlib.import_module, args=("torch",), daemon=True).start()
    if not _any_readable(slides, config):
        return 2
    return (_through_prefect if flow else _here)(slides, out, config)


def _here(slides: list[Path], out: Path, config: AnalyzeConfig) -> int:
    from medvision.pipelines.analyze import analyze_slides, command_of
    from medvision.pipelines.configured import configured_runner
    from medvision.pipelines.recorded import Recorded

    configured_runner(config)  # what is wrong with it is said before anything is written
    every = True
    recorded = Recorded(slides, out, config, command_of(config))
    try:
        with recorded, slide_progress() as progress:
            outcomes = analyze_slides(slides, out, config, progress.on_plan, progress.on_windows)
            for outcome in recorded.take(outcomes):
                print_outcome(outcome)
                every = every and outcome.ok
    finally:
        if recorded.page is not None:
            print_made("report", recorded.page)
    return 0 if every else 1


def _through_prefect(slides: list[Path], out: Path, config: AnalyzeConfig) -> int:
    from flows.local import run_analyze
    from medvision.report.index import INDEX_HTML

    outcomes = run_analyze(slides, out, config)
    for outcome in outcomes:
        print_outcome(outcome)
    print_made("report", out / INDEX_HTML)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _any_readable(slides: list[Path], config: AnalyzeConfig) -> bool:
    """Whether anything can be analysed at all; if not, every reason has been printed."""
    from medvision.sources import open_source
    from medvision.sources.spacing import require_spacing

    reasons = []
    for slide in slides:
        try:
            source = open_source(slide, config.slide_spacing)
            try:
                require_spacing(source)
            finally:
                source.close()
        except (MedvisionError, OSError) as error:
            reasons.append(str(error))
    if len(reasons) < len(slides):
        return True
    for reason in reasons:
        errors.print(f"medvision: error: {reason}", markup=False, soft_wrap=True)
    return False

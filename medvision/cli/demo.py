"""`medvision demo`."""

from __future__ import annotations

import time
from pathlib import Path

from medvision.cli.console import console, print_made, print_outcome, slide_progress
from medvision.pipelines.config import AnalyzeConfig


def demo(*, out: Path = Path("medvision-demo"), seed: int = 1, device: str = "auto") -> int:
    """Make four synthetic slides, analyse them and evaluate against the truth.

    Example: medvision demo --out demo

    Two slides hold metastases, two do not. Nothing is fetched; everything stays below the output folder.

    Parameters
    ----------
    out
        Output folder; made when absent.
    seed
        The same seed gives the same slides.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    """
    from medvision.evaluations.camelyon16 import evaluate
    from medvision.evaluations.camelyon16_page import describe, evaluation_record
    from medvision.evaluations.page import terminal_table, write_page
    from medvision.pipelines.analyze import analyze_slides
    from medvision.pipelines.run import finish_run
    from medvision.synthetic import SyntheticSlide, demo_recipes, write_synthetic_slide

    started = time.perf_counter()
    slides: list[SyntheticSlide] = []
    for number, recipe in enumerate(demo_recipes(seed), start=1):
        with console.status(f"painting slide {number} of 4"):
            slides.append(write_synthetic_slide(recipe, out / "slides", name=f"node-{number:02d}"))
        console.print(f"     slide  [bold]{slides[-1].slide}[/]", soft_wrap=True)
    outcomes = []
    config = AnalyzeConfig(device=device)
    with slide_progress() as progress:
        paths = [made.slide for made in slides]
        for outcome in analyze_slides(paths, out / "results", config, progress.on_plan, progress.on_windows):
            print_outcome(outcome)
            outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed:
        print_made("reports", finish_run(out / "results", outcomes))
        return 1
    # The official protocol drops the lowest threshold, which on four slides is most of the curve.
    scores = evaluate(out / "results", out / "slides", "corrected")
    page = describe(scores)
    write_page(page, out / "evaluation")
    console.print(terminal_table(page))
    truth = "synthetic slides with known truth."
    index = finish_run(out / "results", outcomes, evaluation_record(scores, truth))
    console.print(
        f"done in {time.perf_counter() - started:.0f} s; synthetic slides, so this shows that it works, not how well"
    )
    print_made("open", index)
    return 0

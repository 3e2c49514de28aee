"""`medvision features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import console, print_made, print_outcome, slide_progress
from medvision.core.errors import UsageError
from medvision.store.features_config import FeaturesConfig


def features(
    slides: list[Path] | None = None,
    /,
    *,
    out: Path,
    cohort: Path | None = None,
    config: Annotated[FeaturesConfig, Parameter(name="*")] = FeaturesConfig(),  # noqa: B008 - frozen
) -> int:
    """Compute a feature vector for every window of tissue and store them as Zarr and Parquet, a folder per slide.

    Example: medvision features slide1.svs slide2.svs --model camelyon-mini --out features

    A table that is already there, made from the same content, trunk and settings, is kept.

    Parameters
    ----------
    slides
        Slide files.
    out
        Output folder; made when absent.
    cohort
        Manifest (CSV) of slides, beside or instead of slide files; folders are called after its slide_id.
    """
    from medvision.pipelines.features import cohort_jobs, compute_features, jobs_of, prepare_trunk

    jobs = jobs_of(slides or []) + ([] if cohort is None else cohort_jobs(cohort))
    if not jobs:
        raise UsageError("no slide was given; example: medvision features slide.svs --out features")
    with slide_progress() as progress:
        trunk = prepare_trunk(config, progress.on_windows)
        source = trunk.source
        console.print(
            f"{source.trunk}: {source.dimension} features per window of {source.window_px} px "
            f"at {source.spacing_um:g} µm/px, every {source.stride_px} px",
            markup=False,
        )
        ok = True
        for outcome in compute_features(jobs, out, trunk, progress.on_plan):
            print_outcome(outcome)
            ok = ok and outcome.ok
    print_made("features", out)
    return 0 if ok else 1

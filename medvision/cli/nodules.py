"""`medvision nodules`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import print_made, print_outcome, slide_progress
from medvision.core.errors import MedvisionError
from medvision.pipelines.nodule_config import NoduleConfig, NoduleOptions


def nodules(
    scans: list[Path],
    /,
    *,
    detector: Path,
    out: Path,
    reduction: Path | None = None,
    device: str = "auto",
    batch_size: int = 8,
    options: Annotated[NoduleOptions, Parameter(name="*")] = NoduleOptions(),  # noqa: B008 - frozen
) -> int:
    """Search chest CT scans for lung nodules: candidates, findings with size and place, a page for each scan.

    Example: medvision nodules scan.mhd --detector detector.safetensors --reduction fpr.safetensors --out results

    Each scan gets a folder with report.html, candidates.csv (LUNA16's format), findings.geojson (millimetres),
    result.json; of a DICOM series also findings.dcm, a structured report, which names the patient. A scan whose result
    is already there, made from the same content, models and parameters, is kept; one that was searched in part is
    gone on with. Exit status 0 if all scans are searched, 1 if some are not.

    Parameters
    ----------
    scans
        NIfTI, MetaImage or NRRD files, or DICOM series by their folder or one of their files.
    detector
        Weights of a detector of nodules, or the folder of its training.
    out
        Output folder; made when absent.
    reduction
        Weights of a network against false positives, or the folder of its training. Without it the detector's scores
        stand.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    batch_size
        Windows per batch.
    """
    if not scans:
        raise MedvisionError(
            "no scan was given; example: medvision nodules scan.mhd --detector detector.safetensors --out results"
        )
    from medvision.pipelines.nodules import check_nodule_config, find_each, nodules_command
    from medvision.pipelines.recorded import Recorded

    fields = {name: getattr(options, name) for name in options.model_fields_set}
    config = NoduleConfig(
        detector=detector, reduction=reduction, device=device, batch_size=batch_size, **fields
    )
    check_nodule_config(config)  # what is wrong with it is said before anything is written
    every = True
    recorded = Recorded(scans, out, config, nodules_command(config))
    try:
        with recorded, slide_progress() as progress:
            outcomes = find_each(scans, out, config, progress.on_plan, progress.on_windows)
            for outcome in recorded.take(outcomes):
                print_outcome(outcome, "finding")
                every = every and outcome.ok
    finally:
        if recorded.page is not None:
            print_made("report", recorded.page)
    return 0 if every else 1

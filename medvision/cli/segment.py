"""`medvision segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import print_made, print_outcome, slide_progress
from medvision.core.errors import MedvisionError
from medvision.pipelines.segment_config import SegmentConfig, SegmentOptions


def segment(
    inputs: list[Path],
    /,
    *,
    out: Path,
    model: Path | None = None,
    method: str | None = None,
    device: str = "auto",
    batch_size: int = 4,
    options: Annotated[SegmentOptions, Parameter(name="*")] = SegmentOptions(),  # noqa: B008 - frozen
) -> int:
    """Say what each pixel of images, slides or volumes is: a mask, outlines, areas or volumes, a page for each.

    Example: medvision segment scan.nii.gz --model out/segment --out results
    Example: medvision segment cells.png --method otsu-watershed --out results

    Each file gets a folder with report.html, the mask (PNG, tiled OME-TIFF, NIfTI or DICOM SEG), segments.geojson with
    the outlines (of images and slides), parts.csv with each connected part, and result.json. A file whose result is
    already there, made from the same content, model and parameters, is kept. Exit status 0 if all are segmented, 1 if
    some are not.

    Parameters
    ----------
    inputs
        Images (PNG, JPEG, TIFF, DICOM, ...), slides, volumes (NIfTI, MetaImage, NRRD), or DICOM series by their folder
        or one of their files; what the network takes, images or volumes, its contract says.
    out
        Output folder; made when absent.
    model
        Weights of `medvision train segment`, or the folder of a training.
    method
        In place of a model, NAME or NAME:OPTION=VALUE,...: threshold, otsu, otsu-watershed, kmeans, slic-kmeans,
        grabcut or graph-cut. Of images and volumes.
    device
        auto, cpu, cuda, cuda:1, ... or mps.
    batch_size
        Windows per batch.
    """
    if not inputs:
        raise MedvisionError(
            "no file was given; example: medvision segment scan.nii.gz --model out/segment --out results"
        )
    from medvision.pipelines.recorded import Recorded
    from medvision.pipelines.segment import check_segment_config, segment_command, segment_each

    fields = {name: getattr(options, name) for name in options.model_fields_set}
    config = SegmentConfig(model=model, method=method, device=device, batch_size=batch_size, **fields)
    check_segment_config(config)  # what is wrong with it is said before anything is written
    every = True
    recorded = Recorded(inputs, out, config, segment_command(config))
    try:
        with recorded, slide_progress() as progress:
            outcomes = segment_each(inputs, out, config, progress.on_plan, progress.on_windows)
            for outcome in recorded.take(outcomes):
                print_outcome(outcome, "part")
                every = every and outcome.ok
    finally:
        if recorded.page is not None:
            print_made("report", recorded.page)
    return 0 if every else 1

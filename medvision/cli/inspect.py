"""`medvision info`, `medvision check`: look before running."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medvision.cli.console import console, errors, table
from medvision.pipelines.config import AnalyzeConfig
from medvision.report.format import visible


def info(
    file: Path,
    /,
    *,
    slide_spacing: float | None = None,
    volume_spacing: tuple[float, float, float] | None = None,
    planes: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Say what a file is: format, levels, spacing, size, orientation, reader, vendor, allow-listed metadata.

    Example: medvision info slide.svs --json

    Parameters
    ----------
    file
        A slide, an image, or a volume: NIfTI, MetaImage, NRRD, or a DICOM series by its folder or one of its files.
    slide_spacing
        Level-0 µm/px, where the file states none or a wrong one.
    volume_spacing
        Millimetres between planes, rows and columns of a volume, where the file states none or wrong ones.
    planes
        Write a picture (PNG) of a volume's middle planes there: axial, coronal, sagittal.
    as_json
        Print JSON.
    """
    from medvision.sources.describe import describe, render_text
    from medvision.sources.describe_volume import describe_volume
    from medvision.sources.volume import open_volume

    if volume_spacing is None and planes is None:
        description = describe(file, slide_spacing)
    else:
        from medvision.report.planes import three_planes

        with contextlib.closing(open_volume(file, volume_spacing)) as volume:
            description = describe_volume(volume)
            if planes is not None:
                three_planes(volume).save(planes, format="PNG")
    text = json.dumps(asdict(description), indent=2, default=str) if as_json else render_text(description)
    print(text)
    return 0


def check(
    slides: list[Path],
    /,
    *,
    config: Annotated[AnalyzeConfig, Parameter(name="*")] = AnalyzeConfig(),  # noqa: B008 - frozen
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Dry run: is each slide readable, has it a spacing, how many windows, how much time and disk?

    Example: medvision check slides/*.svs

    Parameters
    ----------
    slides
        Slide files.
    as_json
        Print JSON.
    """
    from medvision.pipelines.check import check_slides

    checks = list(check_slides(slides, config))
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in checks], indent=2))
    else:
        rows = [
            (
                Path(row.slide).name,
                "no" if row.problem else "yes",
                row.reader,
                "" if row.spacing_um is None else f"{row.spacing_um:.4g}",
                "" if row.tissue_mm2 is None else f"{row.tissue_mm2:,.1f}",
                f"{row.windows:,}" if not row.problem else "",
                "" if row.seconds is None else f"{row.seconds:,.0f}",
                f"{row.disk_bytes / 1e6:,.0f}" if row.disk_bytes else "",
            )
            for row in checks
        ]
        columns = ("slide", "ready", "reader", "µm/px", "mm²", "windows", "s", "MB")
        console.print(table("Dry run: nothing was analysed", columns, rows))
        for row in checks:
            if row.problem:
                errors.print(f"not ready: {visible(row.problem)}", markup=False, soft_wrap=True)
        total = sum(row.seconds or 0 for row in checks)
        console.print(f"together about {total:,.0f} s, one slide after the other")
    bad = sum(bool(row.problem) for row in checks)
    return 0 if not bad else (2 if bad == len(checks) else 1)

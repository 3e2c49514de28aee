"""Score large images as a whole, by an aggregator over their patches in reading order (Yan et al. 2018).

An image of 2048 x 1536 px at the trunk's spacing is 4 x 3 patches of 512 px. One of another size is covered by patches
from its upper left corner; what a patch reads beyond the image is background, as beyond a slide. An image without
spacing is taken to be at the trunk's, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvision.core.errors import MedvisionError, UsageError
from medvision.core.geometry import Spacing
from medvision.pipelines.aggregate import Judge
from medvision.pipelines.classify import (
    Classified,
    ClassifyOutcome,
    ClassifyResults,
    Failed,
    list_images,
    refuse_image_spacing,
)
from medvision.pipelines.features import SlideJob, features_of_source, jobs_of
from medvision.sources import open_source
from medvision.store.files import atomic_write, make_output


def classify_whole(
    paths: Sequence[Path], judge: Judge, out: Path, *, spacing_um: float | None = None
) -> ClassifyOutcome:
    """Score images, or all images below folders, and write `out/results.json`; feature tables go to `out/features`.

    `spacing_um` is that of the images, in place of what their files say.

    Raises:
        UsageError: before any work, if there is nothing to score, the spacing is none of a microscope, or `out` cannot
            be written to.
    """
    files = list_images(paths)
    refuse_image_spacing(spacing_um)
    make_output(out)
    tables = make_output(out / "features")
    results: list[Classified] = []
    failed: list[Failed] = []
    for job in jobs_of(files):
        try:
            results.append(_classified(job, judge, tables, spacing_um))
        except MedvisionError as error:
            failed.append(Failed(path=job.path.as_posix(), reason=str(error)))
    contract = judge.model.contract
    content = ClassifyResults(
        model=judge.model.name,
        model_version=contract.version,
        model_digest=judge.model.digest,
        calibration=contract.calibration,
        classes=contract.classes,
        results=tuple(results),
        failed=tuple(failed),
    )
    file = out / "results.json"
    atomic_write(file, content.model_dump_json(indent=1).encode() + b"\n")
    return ClassifyOutcome(file, content.results, content.failed)


def _classified(job: SlideJob, judge: Judge, tables: Path, spacing_um: float | None) -> Classified:
    trunk_um = judge.trunk.source.spacing_um
    source = open_source(job.path, spacing_um)
    try:
        if source.spacing is None:
            source.spacing = Spacing((trunk_um, trunk_um), "um", "supplied")
            said = f"assumed: {trunk_um:g} µm/px, as the model's patches have"
        else:
            said = f"{source.spacing.origin}: {source.spacing.mean:.4g} µm/px"
        table, _ = features_of_source(source, job, tables, judge.trunk)
        rows, columns = source.levels[0].shape
    finally:
        source.close()
    if not table.windows.read.any():
        raise UsageError(f"{job.path}: no patch of it could be read")
    found = judge.model.predict(table.vectors(), judge.config.device).probabilities
    rounded = {name: round(value, 6) for name, value in found.items()}
    window, lattice = table.info.source.window_px, table.info.lattice
    return Classified(
        path=job.path.as_posix(),
        predicted=max(rounded, key=lambda name: rounded[name]),
        probabilities=rounded,
        maxima=rounded,
        windows=table.info.windows,
        unread=table.info.unread,
        shape=(rows, columns),
        spacing=said,
        fit=f"{table.info.windows} patches of {window} px in {lattice[0]} rows of {lattice[1]}, judged as one sequence",
    )

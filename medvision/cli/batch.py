"""`medvision batch`, `medvision batch-images`, `batch-scans`, `batch-segment`, `pseudonyms`."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from medvision.cli.console import (
    batch_progress,
    console,
    errors,
    print_made,
    print_note,
    print_outcome,
    without_prefix,
)
from medvision.core.errors import UsageError
from medvision.pipelines.batch_config import BatchOptions, BatchRequest, read_batch_config
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.image_config import ImageConfig
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.segment_config import SegmentConfig
from medvision.pipelines.work import CASES, IMAGES, SCANS, SLIDES, Work
from medvision.report.format import visible
from medvision.store.records import Record, SlideOutcome

if TYPE_CHECKING:
    from medvision.pipelines.preflight import Preflight

_SHOWN = 20


_Weights = Annotated[
    Path | None,
    Field(
        description="Weights of `medvision train classify`, with their contract; or the folder of a training."
    ),
]


class ImageParameters(ImageConfig):
    """The parameters of images as a command line gives them: the model may be named by a file instead."""

    model: _Weights = None  # type: ignore[assignment]


_Detector = Annotated[
    Path | None,
    Field(description="Weights of a detector of nodules, with their contract (`medvision train nodules`)."),
]


class ScanParameters(NoduleConfig):
    """The parameters of scans as a command line gives them: the detector may be named by a file instead."""

    detector: _Detector = None  # type: ignore[assignment]


def batch(
    slides: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    analyze: Annotated[AnalyzeConfig, Parameter(name="*")] = AnalyzeConfig(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Analyse every slide of a manifest or a folder, unattended: one verdict for each, and a page of all.

    Example: medvision batch slides/ --out results --config configs/batch.yaml

    Slides that are done already, from the same content, model and parameters, are kept; one that was interrupted goes
    on where it stood. A slide that fails does not stop the others. Exit status 0 only if every slide is done.

    Parameters
    ----------
    slides
        A manifest (CSV with the columns slide_id and path, and as you like spacing, label, patient), or a folder.
    out
        Output folder; made when absent.
    config
        YAML file with the parameters below, by name; an option that is given takes the place of the file's.
    """
    given = chosen(analyze) | chosen(options)
    return _run(read_batch_config(slides, out, config, given))


def batch_images(
    images: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    classify: Annotated[ImageParameters, Parameter(name="*")] = ImageParameters(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Classify every image of a manifest or a folder, unattended: one verdict for each, and a page of all.

    Example: medvision batch-images oct/ --out results --model oct.safetensors

    Images that are done already, from the same content, model and parameters, are kept. One that fails does not stop
    the others. Exit status 0 only if every image is done.

    Parameters
    ----------
    images
        A manifest (CSV with the columns image and path, and as you like label, patient), or a folder.
    out
        Output folder; made when absent.
    config
        YAML file with the parameters below, by name; an option that is given takes the place of the file's.
    """
    given = chosen(classify) | chosen(options)
    return _run(read_batch_config(images, out, config, given, IMAGES))


def batch_scans(
    scans: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    nodules: Annotated[ScanParameters, Parameter(name="*")] = ScanParameters(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Search every chest CT of a manifest or a folder for nodules, unattended: one verdict for each, and a page of all.

    Example: medvision batch-scans scans/ --out results --detector detector.safetensors --reduction fpr.safetensors

    Scans that are done already, from the same content, models and parameters, are kept. One that fails does not stop
    the others. Exit status 0 only if every scan is done.

    Parameters
    ----------
    scans
        A manifest (CSV with the columns scan and path, and as you like label, patient), or a folder. A DICOM series
        counts once.
    out
        Output folder; made when absent.
    config
        YAML file with the parameters below, by name; an option that is given takes the place of the file's.
    """
    given = chosen(nodules) | chosen(options)
    return _run(read_batch_config(scans, out, config, given, SCANS))


def batch_segment(
    cases: Path,
    /,
    *,
    out: Path,
    config: Path | None = None,
    segment: Annotated[SegmentConfig, Parameter(name="*")] = SegmentConfig(),  # noqa: B008 - frozen
    options: Annotated[BatchOptions, Parameter(name="*")] = BatchOptions(),  # noqa: B008 - frozen
) -> int:
    """Segment every image, slide or volume of a manifest or a folder, unattended: one verdict for each, a page of all.

    Example: medvision batch-segment scans/ --out results --model out/segment --pattern "*.nii.gz"

    Files that are done already, from the same content, model and parameters, are kept. One that fails does not stop
    the others. Exit status 0 only if every file is done.

    Parameters
    ----------
    cases
        A manifest (CSV with the columns case and path, and as you like spacing, label, patient), or a folder. A slide
        or a DICOM series of several files counts once.
    out
        Output folder; made when absent.
    config
        YAML file with the parameters below, by name; an option that is given takes the place of the file's.
    """
    given = chosen(segment) | chosen(options)
    return _run(read_batch_config(cases, out, config, given, CASES))


def chosen(parameters: Record) -> dict[str, Any]:
    """What was given on the command line, by name."""
    return {name: getattr(parameters, name) for name in parameters.model_fields_set}


def _run(request: BatchRequest) -> int:
    work = request.work
    looked = _preflight(request)
    if looked.is_hopeless:
        errors.print(
            f"medvision: error: none of {work.plural(looked.items)} can be {work.done}", markup=False
        )
        return 2
    from flows.local import run_batch
    from medvision.pipelines.batch import RunEndError
    from medvision.report.index import INDEX_HTML

    try:
        with batch_progress(partial(print_outcome, found=work.found), work) as tell:
            outcomes = run_batch(request, tell)
    except RunEndError as error:
        errors.print(f"medvision: error: {error}", markup=False, soft_wrap=True)
        return 1
    _print_summary(outcomes, work)
    print_made("page", request.out / INDEX_HTML)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _preflight(request: BatchRequest) -> Preflight:
    """Look at the settings and at every file's header before the first is begun, and say what will fail."""
    from medvision.pipelines.batch import check_request
    from medvision.pipelines.batch_plan import plan_batch
    from medvision.pipelines.preflight import preflight
    from medvision.store.files import make_output
    from medvision.store.ledger import LEDGER, Ledger

    planned = plan_batch(request)
    check_request(request)
    make_output(request.out)
    if (request.out / LEDGER).exists():
        Ledger(request.out / LEDGER, read_only=True).close()
    looked = preflight(planned, request)
    count = request.work.plural(looked.items)
    print_note(f"{count}, {looked.bytes / 1e9:,.2f} GB; {looked.free_bytes / 1e9:,.0f} GB free for results")
    if looked.is_short_of_room:
        errors.print("warning: the results may not fit on the disk", markup=False)
    for item, reason in looked.problems[:_SHOWN]:
        said = without_prefix(reason, item.shown)
        errors.print(f"will fail: {visible(item.shown)}: {visible(said)}", markup=False, soft_wrap=True)
    if len(looked.problems) > _SHOWN:
        errors.print(f"and {len(looked.problems) - _SHOWN} more will fail", markup=False)
    return looked


def _print_summary(outcomes: list[SlideOutcome], work: Work[Any]) -> None:
    counts = Counter(str(outcome.status) for outcome in outcomes)
    order = ("done", "resumed", "unchanged", "no tissue", "QC rejected", "failed")
    parts = [f"{counts[status]} {status}" for status in order if counts[status]]
    console.print(f"{work.plural(len(outcomes))}: {', '.join(parts)}", markup=False)


def pseudonyms(
    slides: Path | None = None,
    /,
    *,
    key: Path | None = None,
    new_key: Path | None = None,
    images: bool = False,
    scans: bool = False,
    pattern: tuple[str, ...] | None = None,
) -> int:
    """Say which pseudonym each slide, image or scan of a manifest or folder has, or make a key for pseudonyms.

    Example: medvision pseudonyms --new-key key; medvision pseudonyms cohort.csv --key key

    Keep the key, and this list, apart from the results: whoever has either can tell who is who.

    Parameters
    ----------
    slides
        A manifest or a folder, as in `medvision batch`, `batch-images` or `batch-scans`.
    key
        File with the key.
    new_key
        Make a key in this file, which must not be there yet.
    images
        The files are images, as `medvision batch-images` takes them.
    scans
        The files are scans, as `medvision batch-scans` takes them.
    pattern
        File names to take from a folder. Default: as the batch does.
    """
    from medvision.pipelines.batch_plan import identities
    from medvision.store.pseudonyms import read_key, write_key

    if new_key is not None:
        print_made("key", write_key(new_key))
        key = key or new_key
    if slides is None:
        if new_key is None:
            raise UsageError("name a manifest or a folder and its --key, or make a key with --new-key")
        return 0
    if key is None:
        raise UsageError("--key is missing: the file with the key that the pseudonyms were made with")
    if images and scans:
        raise UsageError("--images and --scans: the files are one of the two")
    names, work = read_key(key), IMAGES if images else SCANS if scans else SLIDES
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow((f"{work.item}_id", "pseudonym"))
    found = identities(slides, pattern, work)
    rows.writerows((item_id, names.of(item_id, work.item)) for item_id in found)
    return 0

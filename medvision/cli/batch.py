"""`medvision batch`, `medvision pseudonyms`."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

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
from medvision.pipelines.batch_config import PATTERNS, BatchOptions, BatchRequest, read_batch_config
from medvision.pipelines.config import AnalyzeConfig
from medvision.report.format import visible
from medvision.store.records import SlideOutcome

if TYPE_CHECKING:
    from medvision.pipelines.preflight import Preflight

_SHOWN = 20


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
    request = _request(slides, out, config, analyze, options)
    looked = _preflight(request)
    if looked.is_hopeless:
        errors.print(f"medvision: error: none of {looked.slides} slides can be analysed", markup=False)
        return 2
    from flows.local import run_batch
    from medvision.pipelines.batch import RunEndError
    from medvision.report.index import INDEX_HTML

    try:
        with batch_progress(print_outcome) as tell:
            outcomes = run_batch(request, tell)
    except RunEndError as error:
        errors.print(f"medvision: error: {error}", markup=False, soft_wrap=True)
        return 1
    _print_summary(outcomes)
    print_made("page", out / INDEX_HTML)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _request(
    slides: Path, out: Path, config: Path | None, analyze: AnalyzeConfig, options: BatchOptions
) -> BatchRequest:
    """The request of the file and the command line together; what was given on the command line comes first."""
    given: dict[str, Any] = {name: getattr(analyze, name) for name in analyze.model_fields_set}
    given |= {name: getattr(options, name) for name in options.model_fields_set}
    return read_batch_config(slides, out, config, given)


def _preflight(request: BatchRequest) -> Preflight:
    """Look at the settings and at every slide's header before the first is begun, and say what will fail."""
    from medvision.pipelines.batch import check_request
    from medvision.pipelines.batch_plan import plan_batch
    from medvision.pipelines.preflight import preflight
    from medvision.store.files import make_output
    from medvision.store.ledger import LEDGER, Ledger

    planned = plan_batch(request)
    make_output(request.out)
    check_request(request)
    if (request.out / LEDGER).exists():
        Ledger(request.out / LEDGER, read_only=True).close()
    looked = preflight(planned, request.out, request.analyze.slide_spacing, request.options)
    count = f"{looked.slides:,} slide{'s' * (looked.slides != 1)}"
    print_note(f"{count}, {looked.bytes / 1e9:,.2f} GB; {looked.free_bytes / 1e9:,.0f} GB free for results")
    if looked.is_short_of_room:
        errors.print("warning: the results may not fit on the disk", markup=False)
    for slide, reason in looked.problems[:_SHOWN]:
        said = without_prefix(reason, slide.shown)
        errors.print(f"will fail: {visible(slide.shown)}: {visible(said)}", markup=False, soft_wrap=True)
    if len(looked.problems) > _SHOWN:
        errors.print(f"and {len(looked.problems) - _SHOWN} more will fail", markup=False)
    return looked


def _print_summary(outcomes: list[SlideOutcome]) -> None:
    counts = Counter(str(outcome.status) for outcome in outcomes)
    order = ("done", "resumed", "unchanged", "no tissue", "QC rejected", "failed")
    parts = [f"{counts[status]} {status}" for status in order if counts[status]]
    console.print(f"{len(outcomes)} slides: {', '.join(parts)}", markup=False)


def pseudonyms(
    slides: Path | None = None,
    /,
    *,
    key: Path | None = None,
    new_key: Path | None = None,
    pattern: tuple[str, ...] = PATTERNS,
) -> int:
    """Say which pseudonym each slide of a manifest or folder has, or make a key for pseudonyms.

    Example: medvision pseudonyms --new-key key; medvision pseudonyms cohort.csv --key key

    Keep the key, and this list, apart from the results: whoever has either can tell who is who.

    Parameters
    ----------
    slides
        A manifest or a folder, as in `medvision batch`.
    key
        File with the key.
    new_key
        Make a key in this file, which must not be there yet.
    pattern
        File names to take from a folder.
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
    names = read_key(key)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("slide_id", "pseudonym"))
    rows.writerows((slide_id, names.of(slide_id)) for slide_id in identities(slides, pattern))
    return 0

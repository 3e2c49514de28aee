"""One image, slide or volume to what each of its pixels is: a mask, outlines, areas or volumes, and a report."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medvision.core.errors import UnreadableSourceError
from medvision.engine.engine import EngineSettings, PatchEngine, RunStats
from medvision.pipelines.configured_segment import ReadySegment, ready_segment
from medvision.pipelines.device import compute
from medvision.pipelines.segment_case import Case, open_case
from medvision.pipelines.segment_config import MaskFormat, SegmentConfig
from medvision.pipelines.segment_labels import OUTLINES, PARTS, Tally, write_areas, write_volumes
from medvision.pipelines.segment_masks import format_for, write_label_mask, write_objects
from medvision.pipelines.segment_parts import LabelImage
from medvision.pipelines.segment_pictures import write_overlay, write_planes
from medvision.pipelines.segment_record import segment_command, segment_result
from medvision.pipelines.segment_run import Found, SegmentRun, check_steps, tiling_for
from medvision.pipelines.slide_result import failed_outcome
from medvision.report.build import RESULT, RUN
from medvision.report.render import HTML, write_report
from medvision.sources.guarded import Limits
from medvision.store.files import make_output, safe_name
from medvision.store.names import claim_names
from medvision.store.provenance import new_run_id, utc_now
from medvision.store.records import RunRecord, SlideOutcome
from medvision.store.segment_records import SegmentResult
from medvision.store.store import ResultSpec, ResultStore

__all__ = ["check_segment_config", "segment_case", "segment_command", "segment_each"]

MOST_UNREAD = 0.05
"""Share of the windows that may be unreadable before a case counts as failed."""


def segment_case(
    path: Path,
    out: Path,
    config: SegmentConfig,
    name: str | None = None,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    *,
    called: str | None = None,
    alias: str | None = None,
    limits: Limits | None = None,
) -> SlideOutcome:
    """Segment one file into `out/<name>/`: the record (`SegmentResult` in `result.json`), mask, outlines, report.

    Parameters and outcome are those of `analyze_slide`. The outcome's `regions` counts the connected parts, its
    `label` is the class of which most was found. With `limits`, the file is read by a process of its own.

    A result of the same content, weights, configuration and code that verifies is kept ("unchanged"). What goes wrong
    with the file is the outcome's status and reason; what is wrong with the configuration raises.
    """
    started, began = time.perf_counter(), utc_now()
    ready = check_segment_config(config)
    make_output(out)
    name = safe_name(path) if name is None else name
    settings = EngineSettings(device=config.device, batch_size=config.batch_size, readers=2)
    engine = PatchEngine(settings, on_windows, stop)
    work: _Segmentation | None = None
    shown = alias or called or path.name
    try:
        contract = None if ready is None else ready.model.contract
        with contextlib.closing(open_case(path, config, contract, shown, limits)) as case:
            hidden = alias is not None
            work = _Segmentation(
                case, path, hidden, name, out, config, ready, engine, on_plan, started, began
            )
            outcome = work.outcome(str(path) if alias is None else alias)
            return outcome.model_copy(update={"called": alias or called or ""})
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with a file is its outcome
        failed = failed_outcome(path, name, error, time.perf_counter() - started, alias, called)
        return failed if work is None else failed.model_copy(update={"digests": work.spec.digests})


def segment_each(
    paths: Sequence[Path],
    out: Path,
    config: SegmentConfig,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> Iterator[SlideOutcome]:
    """Segment files, each into a folder below `out`, in order; one that fails does not stop the others."""
    stop = threading.Event()
    make_output(out)
    for one in claim_names(out, paths):
        yield segment_case(one.path, out, config, one.name, on_plan, on_windows, stop, called=one.called)


def check_segment_config(config: SegmentConfig) -> ReadySegment | None:
    """The network of `config`, None of a method, after making sure of all that can be known before a file is read.

    Raises:
        MedvisionError: with what to pass instead.
    """
    config.check_one()
    check_steps(config)
    if config.model is None:
        return None
    ready = ready_segment(config)
    tiling_for(config, ready, tuple(4 * side for side in ready.model.contract.window))
    return ready


@dataclass(eq=False)
class _Segmentation:
    """One file being segmented."""

    case: Case
    path: Path
    hidden: bool
    """Whether a pseudonym stands for the file's name."""
    name: str
    out: Path
    config: SegmentConfig
    ready: ReadySegment | None
    engine: PatchEngine
    on_plan: Callable[[str, int], None] | None
    started: float
    began: str
    stats: RunStats | None = None

    @cached_property
    def spec(self) -> ResultSpec:
        """Everything that the result depends on."""
        return ResultSpec(
            kind="segment",
            name=self.case.info.name,
            source=self.case.info.digest,
            model="no network" if self.ready is None else self.ready.digest,
            config={**self.config.findings_fields(), "precision": "float32"},
        )

    @cached_property
    def run(self) -> SegmentRun:
        """What makes the labels."""
        return SegmentRun(self.case, self.config, self.ready, self.engine, self._planned)

    def outcome(self, called: str) -> SlideOutcome:
        """Make or find the result, with its report, and say what became of the file."""
        entry = ResultStore(self.out).get_or_make(self.spec, self._make, name=self.name, of_run=(RUN, HTML))
        result = SegmentResult.model_validate_json((entry.folder / RESULT).read_bytes())
        tiling = result.tiling
        return SlideOutcome(
            slide=called,
            name=self.name,
            status="done" if entry.made else "unchanged",
            reason=result.reason,
            probability=result.probability,
            probability_of="mean probability",
            label=result.label,
            regions=result.parts,
            windows=0 if tiling is None else tiling.windows,
            unread=0 if tiling is None else tiling.unread,
            seconds=round(time.perf_counter() - self.started, 3),
            digests=self.spec.digests,
            batch_size=None if self.stats is None else self.stats.batch_size,
            device="" if self.stats is None else self.stats.device,
            set_aside=entry.set_aside,
        )

    def _planned(self, windows: int) -> None:
        if self.on_plan is not None:
            self.on_plan(self.name, windows)

    def _make(self, folder: Path) -> None:
        """Compute everything and write it into `folder`, which the store then puts in place at once."""
        form = format_for(self.config.output, self.case.info.kind)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".labels-") as scratch:
            found = compute(str(self.engine.device), self.engine.stop, lambda: self.run.found(Path(scratch)))
            self.stats = found.stats
            self._refuse_unread(found.stats)
            result = self._written(found, form, folder)
            del found  # its files are closed before they are removed
        (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / RUN).write_text(self._run_record().model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_report(folder)

    def _written(self, found: Found, form: MaskFormat, folder: Path) -> SegmentResult:
        """Write tables, outlines, masks and pictures; returns the record of them."""
        case, image = self.case, found.image
        confidence, minimum = image.confidence, self.config.minimum_size
        if case.volume is None:
            tally = write_areas(image, found.classes, minimum, folder)
        else:
            tally = write_volumes(image, found.classes, minimum, case.frame, folder)
        files = {"parts": PARTS} | ({"outlines": OUTLINES} if case.volume is None else {})
        files["mask"] = write_label_mask(
            case,
            image,
            found.classes,
            form,
            folder,
            series=None if self.hidden else self.path,
            model=str(self.config.method) if self.ready is None else self.ready.model.name,
            key=f"{self.spec.digests}",
        )
        if image.objects is not None:
            files["objects"] = write_objects(case, image.objects, folder)
        pictures = self._pictures(image, tally, folder)
        return segment_result(case, self.config, self.ready, found, tally, confidence, files, pictures)

    def _pictures(
        self, image: LabelImage, tally: Tally, folder: Path
    ) -> tuple[dict[str, str], float | None, dict[str, float]]:
        case = self.case
        if case.volume is not None:
            at = tally.listed[0].centroid if tally.listed else tuple(n / 2 for n in case.shape)
            point = (at[0], at[1], at[2])
            names, views = write_planes(case.volume, image.labels, point, case.ends, folder, image.objects)
            return names, views["axial"], views
        base = self.run.overview.image if case.shown is None else case.shown
        width = None if case.spacing is None else round(case.spacing.values[1] * case.shape[1], 3)
        return write_overlay(base, image.labels, folder, image.objects), width, {}

    def _refuse_unread(self, stats: RunStats | None) -> None:
        if stats is None:
            return
        share = len(stats.unread) / max(stats.windows, 1)
        if share > MOST_UNREAD:
            raise UnreadableSourceError(
                f"{self.path}: {len(stats.unread)} of {stats.windows} windows ({share:.1%}) could not be decoded, "
                f"more than the limit of {MOST_UNREAD:.0%}"
            )

    def _run_record(self) -> RunRecord:
        stats = self.stats
        return RunRecord(
            run_id=new_run_id(),
            started_utc=self.began,
            finished_utc=utc_now(),
            seconds=round(time.perf_counter() - self.started, 3),
            device=str(self.engine.device),
            batch_size=self.config.batch_size if stats is None else stats.batch_size,
            precision="float32",
            backend="" if stats is None else stats.backend,
            tiles_per_second=None if stats is None else round(stats.windows_per_second, 3),
            command=segment_command(self.config),
        )

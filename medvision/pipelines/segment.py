"""One image, slide or volume to what each of its pixels is: a mask, outlines, areas or volumes, and a report."""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medvision.core.digest import digest_json
from medvision.core.errors import UnreadableSourceError, UsageError
from medvision.core.geometry import Box
from medvision.core.results import FloatArray
from medvision.engine.blend import BlendSink, Canvas
from medvision.engine.engine import EngineSettings, PatchEngine, RunStats
from medvision.engine.plan import TilePlan
from medvision.models.segmentation.tiling import SEAMLESS, Tiling, choose_tiling
from medvision.ops.enlarge import linear_slabs
from medvision.ops.tissue import box_share
from medvision.pipelines.configured_segment import ReadySegment, ready_segment
from medvision.pipelines.device import compute
from medvision.pipelines.heatmap import Overview, locate_tissue, read_overview
from medvision.pipelines.segment_case import Case, open_case
from medvision.pipelines.segment_config import SegmentConfig, parse_sides
from medvision.pipelines.segment_labels import (
    OUTLINES,
    PARTS,
    LabelImage,
    Tally,
    decide,
    fill_holes,
    pixel_size,
    write_areas,
    write_volumes,
)
from medvision.pipelines.segment_masks import format_for, write_label_mask
from medvision.pipelines.segment_pictures import write_overlay, write_planes
from medvision.pipelines.slide_result import failed_outcome
from medvision.report.build import RESULT, RUN
from medvision.report.render import HTML, write_report
from medvision.sources.guarded import Limits
from medvision.store.files import make_output, safe_name, safe_names
from medvision.store.image_records import FigureInfo
from medvision.store.provenance import new_run_id, software_versions, utc_now
from medvision.store.records import QcMeasure, RunRecord, SlideOutcome
from medvision.store.segment_records import SegmentModelInfo, SegmentResult, TilingInfo
from medvision.store.store import ResultSpec, ResultStore

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
    shown = path.name if alias is None else alias
    try:
        with contextlib.closing(open_case(path, config, ready.model.contract, shown, limits)) as case:
            work = _Segmentation(case, path, name, out, config, ready, engine, on_plan, started, began)
            return work.outcome(str(path) if alias is None else alias)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with a file is its outcome
        failed = failed_outcome(path, name, error, time.perf_counter() - started, alias)
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
    for path, name in zip(paths, safe_names(paths), strict=True):
        yield segment_case(path, out, config, name, on_plan, on_windows, stop)


def check_segment_config(config: SegmentConfig) -> ReadySegment:
    """The network of `config`, after making sure that its windows can be laid, before any file is read.

    Raises:
        MedvisionError: with what to pass instead.
    """
    ready = ready_segment(config)
    contract = ready.model.contract
    _tiling(config, ready, tuple(4 * side for side in contract.window))
    return ready


def _tiling(config: SegmentConfig, ready: ReadySegment, extent: tuple[int, ...]) -> Tiling:
    window = parse_sides(config.window, int)
    axes = len(ready.model.contract.window)
    if window is not None and len(window) == 1:
        window = window * axes
    return choose_tiling(
        ready.model.contract,
        extent,
        blend=config.blend,
        overlap=config.overlap,
        halo=config.halo,
        window=window,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """What the network and the measures say of a case."""

    image: LabelImage
    stats: RunStats
    tiling: Tiling
    plan: TilePlan
    seam: float | None


@dataclass(eq=False)
class _Segmentation:
    """One file being segmented."""

    case: Case
    path: Path
    name: str
    out: Path
    config: SegmentConfig
    ready: ReadySegment
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
            model=self.ready.digest,
            config={**self.config.findings_fields(), "precision": "float32"},
        )

    @cached_property
    def overview(self) -> Overview:
        """A slide at low resolution."""
        return read_overview(self.case.source)

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, the background first."""
        return self.ready.model.contract.classes

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
        )

    def _make(self, folder: Path) -> None:
        """Compute everything and write it into `folder`, which the store then puts in place at once."""
        form = format_for(self.config.output, self.case.info.kind)
        if self.config.fill_holes and self.case.info.kind == "slide":
            raise UsageError("--fill-holes is for images and volumes, which fit in memory; leave it out")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".labels-") as scratch:
            found = compute(str(self.engine.device), self.engine.stop, lambda: self._segmented(Path(scratch)))
            self._refuse_unread(found.stats)
            image = found.image
            confidence = round(image.confidence, 6)
            if self.config.fill_holes:
                fill_holes(image.labels)
            minimum = self.config.minimum_size
            if self.case.volume is None:
                tally = write_areas(image, self.classes, minimum, folder)
            else:
                tally = write_volumes(image, self.classes, minimum, self.case.frame, folder)
            mask = write_label_mask(
                self.case,
                image,
                self.classes,
                form,
                folder,
                series=self.path,
                model=self.ready.model.name,
                key=f"{self.spec.digests}",
            )
            images, width, views = self._pictures(image, tally, folder)
            files = {"mask": mask, "parts": PARTS}
            if self.case.volume is None:
                files["outlines"] = OUTLINES
            result = self._result(found, tally, confidence, files, images, width, views)
            del found, image  # files are closed before they are removed
        (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / RUN).write_text(self._run_record().model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_report(folder)

    def _segmented(self, scratch: Path) -> _Found:
        case = self.case
        tiling = _tiling(self.config, self.ready, case.extent)
        plan = tiling.plan(case.source.id, case.extent, case.grid)
        if self.config.tissue_only and case.info.kind == "slide":
            plan = self._on_tissue(plan)
        if self.on_plan is not None:
            self.on_plan(self.name, len(plan))
        runner = self.ready.runner(tiling.window, case.ends)
        seam = self.ready.seam(tiling) if len(plan) > 1 else None
        if case.info.kind == "slide":
            image, stats = self._streamed(plan, tiling, runner, scratch)
        else:
            canvas = Canvas.of(plan, len(self.classes))
            sink = BlendSink(plan, tiling.margin, tiling.blend, canvas)
            _, stats = self.engine.run(case.source, plan, runner, sink)
            image = self._at_home(canvas.values)
        self.stats = stats
        return _Found(image, stats, tiling, plan, seam)

    def _streamed(
        self, plan: TilePlan, tiling: Tiling, runner: object, scratch: Path
    ) -> tuple[LabelImage, RunStats]:
        """Labels of a slide, in files that take room on the disk only where there is something."""
        labels, sure = (
            np.memmap(scratch / name, np.uint8, "w+", shape=self.case.extent) for name in ("labels", "sure")
        )

        def receive(box: Box, probabilities: FloatArray) -> None:
            labels[box.slices()], sure[box.slices()] = decide(probabilities, self.config.threshold)

        sink = BlendSink(plan, tiling.margin, tiling.blend, receive)
        _, stats = self.engine.run(self.case.source, plan, runner, sink)  # type: ignore[arg-type]
        step = self._step
        return LabelImage(labels, sure, step, pixel_size(self.case.spacing, step)), stats

    @property
    def _step(self) -> tuple[float, ...]:
        """Side of the network's pixels in pixels of the file."""
        case = self.case
        wanted = self.ready.model.contract.spacing
        if wanted is None or case.spacing is None:
            return (1.0,) * len(case.extent)
        return tuple(new / old for new, old in zip(wanted, case.spacing.values, strict=True))

    def _at_home(self, probabilities: FloatArray) -> LabelImage:
        """Labels on the pixels of the file itself."""
        shape = self.case.shape
        labels, sure = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        steps = tuple(1 / step for step in self._step)
        for start, slab in linear_slabs(probabilities, shape, steps):
            part = slice(start, start + slab.shape[1])
            labels[part], sure[part] = decide(slab, self.config.threshold)
        one = (1.0,) * len(shape)
        return LabelImage(labels, sure, one, pixel_size(self.case.spacing, one))

    def _on_tissue(self, plan: TilePlan) -> TilePlan:
        tissue = locate_tissue(self.overview)
        base = self.case.spacing if self.case.grid is None else self.case.grid
        assert base is not None, "a slide has a spacing"
        share = box_share(tissue.mask, self.overview.spacing_um, plan.cores, base.mean)
        return plan.keep(share > 0)

    def _pictures(
        self, image: LabelImage, tally: Tally, folder: Path
    ) -> tuple[dict[str, str], float | None, dict[str, float]]:
        case = self.case
        if case.volume is not None:
            listed = tally.listed
            middle = tuple(n / 2 for n in case.shape)
            at = listed[0].centroid if listed else middle
            names, views = write_planes(case.volume, image.labels, (at[0], at[1], at[2]), case.ends, folder)
            return names, views["axial"], views
        base = self.overview.image if case.shown is None else case.shown
        width = None if case.spacing is None else round(case.spacing.values[1] * case.shape[1], 3)
        return write_overlay(base, image.labels, folder), width, {}

    def _refuse_unread(self, stats: RunStats) -> None:
        share = len(stats.unread) / max(stats.windows, 1)
        if share > MOST_UNREAD:
            raise UnreadableSourceError(
                f"{self.path}: {len(stats.unread)} of {stats.windows} windows ({share:.1%}) could not be decoded, "
                f"more than the limit of {MOST_UNREAD:.0%}"
            )

    def _result(
        self,
        found: _Found,
        tally: Tally,
        confidence: float,
        files: dict[str, str],
        images: dict[str, str],
        width: float | None,
        views: dict[str, float],
    ) -> SegmentResult:
        fields = self.config.findings_fields()
        tiling, stats = found.tiling, found.stats
        exact = tiling.exact and (found.seam is None or found.seam <= SEAMLESS)
        return SegmentResult(
            case=self.case.info,
            model=describe_segment_model(self.ready, self.case.ends),
            config=fields,
            config_digest=digest_json(fields),
            software=software_versions(),
            tiling=TilingInfo(
                extent=self.case.extent,
                window=tiling.window,
                step=tiling.step,
                margin=tiling.margin,
                blend=tiling.blend,
                windows=stats.windows,
                unread=len(stats.unread),
                exact=exact,
                influence=tiling.reach.influence,
                seam_difference=None if found.seam is None else float(f"{found.seam:.2g}"),
            ),
            classes=tally.totals(math.prod(found.image.labels.shape)),
            largest=tally.listed,
            removed=tally.removed,
            confidence=confidence,
            files=files,
            qc=_checks(stats),
            limits=_limits(found, tally, self.config, exact),
            images=images,
            picture_width=width,
            views=views,
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


def describe_segment_model(ready: ReadySegment, ends: tuple[float, float]) -> SegmentModelInfo:
    """The network, as its contract says it, and what it made of this file's values."""
    contract = ready.model.contract
    low, high = ends
    values = f"{low:.5g} to {high:.5g}"
    if contract.intensity == "source":
        first, last = contract.range
        values += f", percentiles {first:g} and {last:g} of this file"
    return SegmentModelInfo(
        name=ready.model.name,
        version=contract.version,
        digest=ready.digest,
        architecture=contract.architecture,
        classes=contract.classes,
        channels=contract.channels,
        window=contract.window,
        spacing=contract.spacing,
        unit=contract.unit,
        values=values,
        temperature=contract.temperature,
        calibration=contract.calibration,
        figures={name: FigureInfo(**one.model_dump()) for name, one in contract.figures.items()},
    )


def segment_command(config: SegmentConfig) -> str:
    """The command with every parameter that is not a default; no paths, which may name a patient."""
    changed = config.model_dump(exclude_defaults=True, exclude={"model"})
    options = []
    for name, value in changed.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{flag}")
        else:
            options.append(f"--{flag}={value}")
    return shlex.join(["medvision", "segment", *options])


def _checks(stats: RunStats) -> tuple[QcMeasure, ...]:
    return (
        QcMeasure(
            name="unread windows",
            value=float(len(stats.unread)),
            unit="",
            ok=not stats.unread,
            limit="0",
            meaning=f"Windows, of {stats.windows:,}, that could not be decoded: they count as background.",
        ),
    )


def _limits(found: _Found, tally: Tally, config: SegmentConfig, exact: bool) -> tuple[str, ...]:
    """Sentences on what the result does not cover."""
    notes = []
    if len(found.plan) > 1 and not exact:
        seam = found.seam or 0.0
        notes.append(
            f"Windows were blended ({found.tiling.blend}): near their edges the result differs from one run over the "
            f"whole, on noise by up to {seam:.2g} of a probability."
        )
    if found.stats.unread:
        notes.append(
            f"{len(found.stats.unread)} windows could not be decoded; they are background in the mask."
        )
    if tally.removed:
        notes.append(f"{tally.removed:,} parts smaller than {config.minimum_size:g} became background.")
    if config.tissue_only:
        notes.append("Windows without tissue were not looked at; they are background in the mask.")
    notes.append("A pixel is of one class only; what no class was trained on gets one all the same.")
    return tuple(notes)

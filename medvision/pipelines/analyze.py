"""The main job: one slide to a heatmap, lesion regions, a slide score, and a report."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medvision.core.digest import digest_json
from medvision.core.errors import UnreadableSourceError
from medvision.core.results import Raster
from medvision.engine.backends import Runner
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine, RunStats
from medvision.engine.plan import TilePlan
from medvision.models.slide_forest import SlideForest
from medvision.ops.tissue import Tissue
from medvision.pipelines.config import AnalyzeConfig, Scalar
from medvision.pipelines.configured import configured_forest, configured_model, configured_runner
from medvision.pipelines.configured_segment import ReadySegment
from medvision.pipelines.dense import Agreement, compute_dense, plan_dense
from medvision.pipelines.device import compute
from medvision.pipelines.heatmap import (
    Overview,
    compute_heatmap,
    locate_tissue,
    plan_heatmap,
    read_overview,
    units_of,
)
from medvision.pipelines.slide_result import (
    SlideFindings,
    describe_model,
    describe_slide,
    describe_tissue,
    failed_outcome,
    interpret,
    judge,
    measure_quality,
    write_crops,
    write_peaks,
    write_pictures,
)
from medvision.pipelines.tissue_model import tissue_by_model, tissue_model
from medvision.report.render import HTML, PDF, write_report
from medvision.sources import open_source
from medvision.sources.base import Source
from medvision.sources.guarded import Limits, open_guarded
from medvision.store.files import make_output, safe_name
from medvision.store.names import claim_names
from medvision.store.provenance import new_run_id, software_versions, utc_now
from medvision.store.records import (
    Label,
    QcMeasure,
    RunRecord,
    SlideOutcome,
    SlideResult,
    Status,
    Verdict,
)
from medvision.store.store import ResultSpec, ResultStore

RESULT = "result.json"
RUN = "run.json"


def analyze_slides(
    slides: Sequence[Path],
    out: Path,
    config: AnalyzeConfig,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> Iterator[SlideOutcome]:
    """Analyse slides into folders below `out`; one that fails does not stop the others.

    While the device works on one slide, the one before is written and the next is opened: nothing waits in between.
    Outcomes come in the order of the slides. `on_plan(name, windows)` is told of each slide's size before it runs,
    `on_windows(count)` of windows done, both on other threads than the caller's, never at once.

    Raises:
        MedvisionError: before anything is written of the first slide, if the model or the device cannot be had.
    """
    configured_runner(config)
    make_output(out)
    stop = threading.Event()
    named = claim_names(out, slides)
    began = [threading.Event() for _ in slides]

    def analyze(number: int) -> SlideOutcome:
        def tell(name: str, windows: int) -> None:
            began[number].set()
            if on_plan is not None:
                on_plan(name, windows)

        try:
            one = named[number]
            return analyze_slide(one.path, out, config, one.name, tell, on_windows, stop, called=one.called)
        finally:
            began[number].set()

    pool = ThreadPoolExecutor(2, thread_name_prefix="medvision-slide")
    try:
        waiting = [pool.submit(analyze, 0)] if slides else []
        for number in range(len(slides)):
            began[number].wait()
            if number + 1 < len(slides):
                waiting.append(pool.submit(analyze, number + 1))
            yield waiting.pop(0).result()
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def analyze_slide(
    slide: Path,
    out: Path,
    config: AnalyzeConfig,
    name: str | None = None,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    *,
    called: str | None = None,
    alias: str | None = None,
    limits: Limits | None = None,
) -> SlideOutcome:
    """Analyse one slide into `out/<name>/`: the record, the rasters, the pictures, the report.

    `name` is by default `safe_name(slide)`, and the records say `called`, by default the file name; a run of several
    slides takes both from `claim_names`, which keeps slides of one file name apart. `stop`, set by another thread, ends
    it with `KeyboardInterrupt`, its progress saved.
    `alias` stands for the slide's file name in everything that is written or said. With `limits`, the file is read by
    a process of its own that may not exceed them (see `medvision.sources.open_guarded`).

    A result of the same slide content, weights, configuration and code that verifies is kept ("unchanged"). What goes
    wrong with the slide is the outcome's status and reason; what is wrong with the configuration raises.
    """
    started, began = time.perf_counter(), utc_now()
    model, ready = configured_model(config), configured_runner(config)
    make_output(out)
    engine = PatchEngine(_settings(config), on_windows, stop)
    name = safe_name(slide) if name is None else name
    analysis: _Analysis | None = None
    try:
        if limits is None:
            source = open_source(slide, config.slide_spacing)
        else:
            source = open_guarded(slide, config.slide_spacing, limits)
        try:
            analysis = _Analysis(
                slide, name, called, alias, out, config, model, engine, source, on_plan, started, began
            )
            if not ready.done():
                _ = analysis.tissue  # the time in which the network is made ready
            return analysis.outcome(ready.result())
        finally:
            source.close()
    except Exception as error:
        if ready.done() and error is ready.exception():
            raise
        failed = failed_outcome(slide, name, error, time.perf_counter() - started, alias, called)
        return failed if analysis is None else failed.model_copy(update={"digests": analysis.digests})


def _settings(config: AnalyzeConfig) -> EngineSettings:
    return EngineSettings(
        device=config.device,
        batch_size=config.batch_size,
        readers=config.readers,
        precision=config.precision,
        backend=config.backend,
        checkpoint_seconds=config.checkpoint_seconds,
    )


@dataclass(eq=False)
class _Analysis:
    """One slide being analysed."""

    slide: Path
    name: str
    called: str | None
    alias: str | None
    out: Path
    config: AnalyzeConfig
    model: PatchModel
    engine: PatchEngine
    source: Source
    on_plan: Callable[[str, int], None] | None
    started: float
    began: str
    stats: RunStats | None = None
    agreement: Agreement | None = None
    spec: ResultSpec | None = None

    @property
    def shown(self) -> str:
        """What the slide is called in its records."""
        return self.alias or self.called or self.slide.name

    @property
    def digests(self) -> dict[str, str]:
        """What the result is made from, as far as it is known."""
        return {} if self.spec is None else self.spec.digests

    @cached_property
    def overview(self) -> Overview:
        """The slide at low resolution."""
        return read_overview(self.source)

    @cached_property
    def tissue(self) -> Tissue:
        """Where tissue lies in the overview."""
        if self.tissue_model is None:
            return locate_tissue(self.overview)
        return tissue_by_model(self.source, self.overview, self.tissue_model, self.engine)

    def outcome(self, runner: Runner) -> SlideOutcome:
        """Make or find the result, with its report, and say what became of the slide."""
        store = ResultStore(self.out)
        spec = self.spec = self._spec(runner)
        of_run = (RUN, HTML, PDF)
        entry = store.get_or_make(
            spec,
            lambda folder: self._make(folder, store.scratch(spec, self.name), runner),
            name=self.name,
            of_run=of_run,
        )
        result = SlideResult.model_validate_json((entry.folder / RESULT).read_bytes())
        return SlideOutcome(
            slide=str(self.slide) if self.alias is None else self.alias,
            name=self.name,
            called=self.alias or self.called or "",
            status=_status(result.verdict, entry.made, self.stats),
            reason=result.reason,
            probability=result.probability,
            label=result.label,
            regions=len(result.regions),
            windows=result.heatmap.windows if result.heatmap else 0,
            unread=result.heatmap.unread if result.heatmap else 0,
            seconds=round(time.perf_counter() - self.started, 3),
            digests=self.digests,
            batch_size=None if self.stats is None else self.stats.batch_size,
            device="" if self.stats is None else self.stats.device,
            set_aside=entry.set_aside,
        )

    @property
    def forest(self) -> SlideForest | None:
        """What judges the slide, where that is not its highest neighbourhood."""
        return configured_forest(self.config)

    @cached_property
    def tissue_model(self) -> ReadySegment | None:
        """What tells tissue, where that is not a threshold of colour."""
        chosen = self.config.tissue_model
        return None if chosen is None else tissue_model(chosen, self.config.device)

    @property
    def fields(self) -> dict[str, Scalar]:
        """The parameters that change the result."""
        fields = self.config.findings_fields()
        if self.forest is not None:
            fields = {**fields, "slide_model": self.forest.digest}
        return fields if self.tissue_model is None else {**fields, "tissue_model": self.tissue_model.digest}

    def _spec(self, runner: Runner) -> ResultSpec:
        """Everything that the result depends on."""
        return ResultSpec(
            kind="analyze",
            name=self.shown,
            source=self.source.id,
            model=self.model.digest,
            config={
                **self.fields,
                "precision": runner.precision,
                "backend": runner.backend,
                "batch_size": self.config.batch_size,
            },
        )

    def _make(self, folder: Path, scratch: Path, runner: Runner) -> None:
        """Compute everything and write it into `folder`, which the store then puts in place at once."""
        overview, tissue = self.overview, self.tissue
        self._refuse_overview(overview)
        plan = plan_heatmap(
            self.source, self.model, tissue, overview, self.config.stride, self.config.minimum_tissue
        )
        findings: SlideFindings | None = None
        raster: Raster | None = None
        quality: tuple[QcMeasure, ...] = ()
        if len(plan):
            quality = measure_quality(self.source, tissue, overview)
            raster, self.stats = self._heatmap(plan, runner, scratch / "heatmap.npz")
            self._refuse_unread(self.stats)
            findings = interpret(raster, self.stats, self.model, self.source, self.config.threshold, folder)
            if self.config.detections == "nms":
                write_peaks(raster, self.model, self.source, folder)
            if self.forest is not None:
                findings = judge(self.forest, findings, raster, self.model)
        positive = self.model.positive or self.model.classes[-1]
        images, thumbnail_um = write_pictures(overview, tissue, raster, positive, folder)
        result = self._result(overview, tissue, findings, quality, images, thumbnail_um, folder)
        (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / RUN).write_text(self._run_record().model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_report(folder)

    def _heatmap(self, plan: TilePlan, runner: Runner, saved: Path) -> tuple[Raster, RunStats]:
        """Probabilities by the windows of `plan` or densely, when the device's turn comes; `saved` is for progress."""
        dense = plan_dense(self.model, plan, self.config.dense)

        def run() -> tuple[Raster, RunStats]:
            if self.on_plan is not None:
                self.on_plan(self.name, units_of(self.model, plan) if dense is None else dense.units)
            if dense is None:
                return compute_heatmap(self.engine, self.source, plan, runner, saved)
            raster, stats, self.agreement = compute_dense(
                self.engine, self.source, dense, self.config.threshold, saved
            )
            return raster, stats

        return compute(str(self.engine.device), self.engine.stop, run)

    def _refuse_overview(self, overview: Overview) -> None:
        """A slide of which much cannot be decoded must not pass as one without tissue."""
        if overview.unread > self.config.unread_limit:
            raise UnreadableSourceError(
                f"{self.slide}: {overview.unread:.1%} of the overview could not be decoded, "
                f"more than the limit of {self.config.unread_limit:.0%}"
            )

    def _refuse_unread(self, stats: RunStats) -> None:
        share = len(stats.unread) / max(stats.windows, 1)
        if share > self.config.unread_limit:
            raise UnreadableSourceError(
                f"{self.slide}: {len(stats.unread)} of {stats.windows} windows ({share:.1%}) could not be decoded, "
                f"more than the limit of {self.config.unread_limit:.0%}"
            )

    def _result(
        self,
        overview: Overview,
        tissue: Tissue,
        findings: SlideFindings | None,
        quality: tuple[QcMeasure, ...],
        images: dict[str, str],
        thumbnail_um: float,
        folder: Path,
    ) -> SlideResult:
        verdict, reason = self._verdict(findings, quality)
        probability = findings.probability if findings else None
        judged = verdict == "done" and probability is not None
        label: Label | None = None
        if judged and probability is not None:
            limit = self.config.threshold if self.forest is None else self.forest.contract.threshold
            label = "positive" if probability >= limit else "negative"
        fields = self.fields
        return SlideResult(
            verdict=verdict,
            reason=reason,
            slide=describe_slide(self.source, self.shown),
            model=describe_model(self.model),
            config=fields,
            config_digest=digest_json(fields),
            software=software_versions(),
            threshold=self.config.threshold,
            slide_threshold=None if self.forest is None else self.forest.contract.threshold,
            probability=probability,
            score_rule=findings.score_rule if findings else "",
            label=label,
            heatmap=findings.heatmap if findings else None,
            tissue=describe_tissue(tissue, overview),
            qc=quality,
            regions=write_crops(self.source, findings.regions, folder) if findings else (),
            limits=_limits(overview, findings, self.agreement, self.config),
            images=images,
            thumbnail_spacing_um=thumbnail_um,
        )

    def _verdict(self, findings: SlideFindings | None, quality: tuple[QcMeasure, ...]) -> tuple[Verdict, str]:
        if findings is None:
            return "no tissue", "no tissue was found on this slide, so no window was scored"
        failed = [measure.name for measure in quality if not measure.ok]
        if failed and self.config.reject_on_qc:
            return "QC rejected", f"outside the limits: {', '.join(failed)}"
        return "done", ""

    def _run_record(self) -> RunRecord:
        stats = self.stats
        return RunRecord(
            run_id=new_run_id(),
            started_utc=self.began,
            finished_utc=utc_now(),
            seconds=round(time.perf_counter() - self.started, 3),
            device=stats.device if stats else str(self.engine.device),
            batch_size=stats.batch_size if stats else self.config.batch_size,
            precision=stats.precision if stats else "float32",
            backend=stats.backend if stats else "",
            tiles_per_second=round(stats.windows_per_second, 1) if stats else None,
            command=command_of(self.config),
        )


def command_of(config: AnalyzeConfig) -> str:
    """The command with every parameter that is not a default; no paths, which may name a patient."""
    changed = config.model_dump(exclude_defaults=True, exclude={"weights", "slide_model", "tissue_model"})
    options = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    return shlex.join(["medvision", "analyze", *options])


def _status(verdict: Verdict, made: bool, stats: RunStats | None) -> Status:
    if verdict != "done":
        return verdict
    if not made:
        return "unchanged"
    return "resumed" if stats is not None and stats.resumed else "done"


def _limits(
    overview: Overview, findings: SlideFindings | None, agreement: Agreement | None, config: AnalyzeConfig
) -> tuple[str, ...]:
    """Sentences on what the result does not cover."""
    notes = []
    if overview.unread:
        notes.append(
            f"{overview.unread:.1%} of the overview could not be decoded; tissue there was not looked at."
        )
    if overview.missing:
        notes.append(
            f"{overview.missing:.1%} of the slide holds no pixels: tiles of zero bytes, taken as glass."
        )
    if agreement is not None:
        notes.append(agreement.sentence())
    if findings is not None:
        if findings.heatmap.unread:
            lost = f"{findings.heatmap.unread} of {findings.heatmap.windows} windows"
            notes.append(f"{lost} could not be decoded and were not scored.")
        cell = findings.heatmap.stride_um
        notes.append(f"Cells with less than {config.minimum_tissue:.0%} tissue were not scored.")
        notes.append(f"Outlines and sizes are exact to one heatmap cell, {cell:g} µm.")
        if findings.spread is not None:
            notes.append(findings.spread.sentence(config.tta))
    return tuple(notes)

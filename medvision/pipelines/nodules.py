"""One chest CT to its nodules: lungs, candidates, their probability by a reduction, sizes, and a report."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medvision.core.digest import digest_json
from medvision.core.errors import UnreadableSourceError
from medvision.engine.engine import EngineSettings, PatchEngine, RunStats
from medvision.models.nodules.run import detect_candidates, lungs_in, read_coarse, rescore
from medvision.ops.candidates import Candidates
from medvision.pipelines.configured_nodules import ReadyNodules, ready_nodules
from medvision.pipelines.device import compute
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.nodule_findings import (
    describe_finding,
    scan_checks,
    tell_sides,
    with_crops,
    write_findings,
    write_projections,
)
from medvision.pipelines.nodule_record import FoundInScan, describe_net, describe_scan, limits_of
from medvision.pipelines.slide_result import failed_outcome
from medvision.report.build import RESULT, RUN
from medvision.report.dicom_sr import FINDINGS_SR, NOT_INSTALLED, can_write_sr, write_sr
from medvision.report.render import HTML, write_report
from medvision.sources.base import VolumeSource
from medvision.sources.dicom_origin import SeriesOrigin, series_origin
from medvision.sources.guarded import Limits
from medvision.sources.spacing import require_spacing
from medvision.sources.volume import open_volume
from medvision.store.files import make_output, safe_name
from medvision.store.luna16_files import Points, series_name, write_candidates
from medvision.store.names import claim_names
from medvision.store.provenance import new_run_id, software_versions, utc_now
from medvision.store.records import RunRecord, SlideOutcome, Status
from medvision.store.scan_records import Finding, NoduleResult
from medvision.store.store import ResultSpec, ResultStore

CANDIDATES = "candidates.csv"


def find_nodules(
    scan: Path,
    out: Path,
    config: NoduleConfig,
    name: str | None = None,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    *,
    called: str | None = None,
    alias: str | None = None,
    limits: Limits | None = None,
) -> SlideOutcome:
    """Search one scan, into `out/<name>/`: the record (`NoduleResult` in `result.json`), candidates, pictures, report.

    Parameters and outcome are those of `analyze_slide`. The outcome's `regions` counts the findings, its `probability`
    is the highest score, and its `label` says whether there is a finding. A scan without lungs is "QC rejected",
    unless `config` has it searched all the same. With `limits`, the scan is read by a process of its own that may not
    exceed them.

    A DICOM series that is read here, under its own name, gets a structured report besides, where `config` wants one.

    A result of the same content, weights, configuration and code that verifies is kept ("unchanged"); one whose
    windows were computed in part when an earlier run ended continues there ("resumed"). What goes wrong with the scan
    is the outcome's status and reason; what is wrong with the configuration raises.
    """
    started, began = time.perf_counter(), utc_now()
    ready = check_nodule_config(config)
    make_output(out)
    name = safe_name(scan) if name is None else name
    settings = EngineSettings(
        device=config.device,
        batch_size=config.batch_size,
        readers=2,
        checkpoint_seconds=config.checkpoint_seconds,
    )
    engine = PatchEngine(settings, on_windows, stop)
    work: _Search | None = None
    try:
        with contextlib.closing(open_scan(scan, config, limits)) as source:
            shown = alias or called or scan.name
            work = _Search(source, shown, name, out, config, ready, engine, on_plan, started, began)
            if alias is None:
                work.look_for_origin()
            outcome = work.outcome(str(scan) if alias is None else alias)
            return outcome.model_copy(update={"called": alias or called or ""})
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with a scan is its outcome
        failed = failed_outcome(scan, name, error, time.perf_counter() - started, alias, called)
        return failed if work is None else failed.model_copy(update={"digests": work.spec.digests})


def find_each(
    scans: Sequence[Path],
    out: Path,
    config: NoduleConfig,
    on_plan: Callable[[str, int], None] | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> Iterator[SlideOutcome]:
    """Search scans, each into a folder below `out`, in order; one that fails does not stop the others."""
    stop = threading.Event()
    make_output(out)
    for one in claim_names(out, scans):
        yield find_nodules(one.path, out, config, one.name, on_plan, on_windows, stop, called=one.called)


def check_nodule_config(config: NoduleConfig) -> ReadyNodules:
    """The networks of `config`, before any scan is read.

    Raises:
        MedvisionError: if one is not there, or none of its kind, or there is no such device.
    """
    return ready_nodules(config)


def open_scan(path: Path, config: NoduleConfig, limits: Limits | None = None) -> VolumeSource:
    """The scan, which holds Hounsfield units at a spacing that can be measured with.

    Raises:
        UnreadableSourceError: if it cannot be opened, is no volume, or its values are no Hounsfield units.
        SpacingError: if its spacing is missing or out of range.
    """
    source = open_volume(path, config.volume_spacing, limits)
    try:
        require_spacing(source, "mm")
        if source.quantity != "HU":
            modality = source.metadata.get("modality", "")
            why = (
                f"is {modality}, whose values are not Hounsfield units"
                if modality
                else f"does not say that its values are Hounsfield units ({source.vendor}), and they are not like "
                "those of a chest CT, which holds air"
            )
            raise UnreadableSourceError(f"{path}: {why}; nodules are looked for in CT alone")
    except Exception:
        source.close()
        raise
    return source


@dataclass(eq=False)
class _Search:
    """One scan being searched."""

    source: VolumeSource
    shown: str
    name: str
    out: Path
    config: NoduleConfig
    ready: ReadyNodules
    engine: PatchEngine
    on_plan: Callable[[str, int], None] | None
    started: float
    began: str
    stats: RunStats | None = None
    origin: SeriesOrigin | None = None
    """Of a series whose findings become a structured report, too."""
    warnings: tuple[str, ...] = ()

    def look_for_origin(self) -> None:
        """Find out whether a structured report is to be written, and can be."""
        if not self.config.dicom_sr or self.config.volume_spacing is not None:
            return  # at another spacing, places are not those of the series
        try:
            origin = series_origin(self.source)
        except UnreadableSourceError as error:
            self.warnings = (f"No DICOM structured report was written: {error}",)
            return
        if origin is not None and not can_write_sr():
            self.warnings = (NOT_INSTALLED,)
        else:
            self.origin = origin

    @cached_property
    def spec(self) -> ResultSpec:
        """Everything that the result depends on."""
        return ResultSpec(
            kind="nodules",
            name=self.shown,
            source=self.source.id,
            model=self.ready.digest,
            config={
                **self.config.findings_fields(),
                "precision": [net.runner.precision for net in self.ready.nets],
                "backend": [net.runner.backend for net in self.ready.nets],
                # A folder without it is another one, and so is made again.
                **({} if self.origin is None else {"dicom_sr": True}),
            },
        )

    def outcome(self, called: str) -> SlideOutcome:
        """Make or find the result, with its report, and say what became of the scan."""
        store = ResultStore(self.out)
        entry = store.get_or_make(
            self.spec,
            lambda folder: self._make(folder, store.scratch(self.spec, self.name)),
            name=self.name,
            of_run=(RUN, HTML, FINDINGS_SR),
        )
        result = NoduleResult.model_validate_json((entry.folder / RESULT).read_bytes())
        return SlideOutcome(
            slide=called,
            name=self.name,
            status=self._status(result, entry.made),
            reason=result.reason,
            probability=result.probability,
            label=result.label,
            regions=len(result.findings),
            windows=result.windows,
            unread=result.unread,
            seconds=round(time.perf_counter() - self.started, 3),
            digests=self.spec.digests,
            batch_size=None if self.stats is None else self.stats.batch_size,
            device=str(self.engine.device) if entry.made else "",
            set_aside=entry.set_aside,
        )

    def _status(self, result: NoduleResult, made: bool) -> Status:
        if result.verdict == "QC rejected":
            return "QC rejected"
        if not made:
            return "unchanged"
        return "resumed" if self.stats is not None and self.stats.resumed else "done"

    def _make(self, folder: Path, scratch: Path) -> None:
        """Compute everything and write it into `folder`, which the store then puts in place at once."""
        found = compute(str(self.engine.device), self.engine.stop, lambda: self._search(scratch))
        result = self._result(found, folder)
        (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        run_id = new_run_id()
        if self.origin is not None and found.detection is not None:
            try:
                write_sr(folder / FINDINGS_SR, result, self.origin, run_id)
            except (ValueError, TypeError, AttributeError) as error:
                self.warnings = (f"No DICOM structured report was written: {error}",)
        (folder / RUN).write_text(self._run_record(run_id).model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_report(folder)

    def _search(self, scratch: Path) -> FoundInScan:
        """Run the networks. Their progress is saved in `scratch`, which outlives a crash."""
        config, source = self.config, self.source
        coarse = read_coarse(source)
        lungs = lungs_in(coarse, config.margin_mm)
        sides = tell_sides(lungs)
        nobody = _none()
        if not lungs.found and not config.without_lungs:
            return FoundInScan(coarse, lungs, sides, None, nobody, np.empty(0), 0)
        detection = detect_candidates(
            self.ready.detector.runner,
            source,
            self.engine,
            checkpoint=scratch / "windows.npz",
            lungs=lungs,
            on_plan=self._planned,
        )
        self.stats = detection.stats
        candidates = detection.candidates
        scores = candidates.scores
        if self.ready.reduction is not None:
            scores = rescore(
                self.ready.reduction.runner,
                source,
                candidates.centres,
                self.engine,
                checkpoint=scratch / "cubes.npz",
            )
        order = np.lexsort((np.arange(len(scores)), -scores))  # NaN comes last
        order = order[np.isfinite(scores[order])][: config.candidates]
        unscored = int(np.isnan(scores).sum())
        return FoundInScan(coarse, lungs, sides, detection, candidates.take(order), scores[order], unscored)

    def _planned(self, windows: int) -> None:
        if self.on_plan is not None:
            self.on_plan(self.name, windows)

    def _result(self, found: FoundInScan, folder: Path) -> NoduleResult:
        config, source = self.config, self.source
        assert source.frame is not None, "a scan with a spacing has a frame"
        series = series_name(Path(self.shown).name)  # with a folder before it, LUNA16's tables do not know it
        centres = source.frame.to_world(found.candidates.centres)
        write_candidates(folder / CANDIDATES, {series: Points(centres, found.scores)})
        findings = self._findings(found, folder)
        write_findings(findings, series, folder)
        rejected = found.detection is None
        fields = config.findings_fields()
        return NoduleResult(
            verdict="QC rejected" if rejected else "done",
            reason="no lungs were found, so that nothing was looked for" if rejected else "",
            scan=describe_scan(source, self.shown, series),
            models=tuple(describe_net(net) for net in self.ready.nets),
            config=fields,
            config_digest=digest_json(fields),
            software=software_versions(),
            threshold=config.threshold,
            candidates=len(found.scores),
            highest=round(float(found.scores[0]), 6) if len(found.scores) else None,
            findings=findings,
            lungs=found.sides.info,
            windows=0 if found.detection is None else found.detection.stats.windows,
            unread=0 if found.detection is None else found.detection.unread,
            qc=scan_checks(source, found.lungs, found.sides.info),
            limits=limits_of(found, findings, config),
            images=write_projections(found.coarse, folder),
        )

    def _findings(self, found: FoundInScan, folder: Path) -> tuple[Finding, ...]:
        listed = [
            describe_finding(number, self.source, found.candidates, number - 1, float(score), found.sides)
            for number, score in enumerate(found.scores, start=1)
            if score >= self.config.threshold
        ]
        pictured = self.config.pictured
        return tuple(with_crops(one, self.source, folder) if one.id <= pictured else one for one in listed)

    def _run_record(self, run_id: str) -> RunRecord:
        runner, stats = self.ready.detector.runner, self.stats
        return RunRecord(
            run_id=run_id,
            started_utc=self.began,
            finished_utc=utc_now(),
            seconds=round(time.perf_counter() - self.started, 3),
            device=str(self.engine.device),
            batch_size=self.config.batch_size if stats is None else stats.batch_size,
            precision=runner.precision,
            backend=runner.backend,
            tiles_per_second=None if stats is None else stats.windows_per_second,
            command=nodules_command(self.config),
            warnings=self.warnings,
        )


def nodules_command(config: NoduleConfig) -> str:
    """The command with every parameter that is not a default; no paths, which may name a patient."""
    changed = config.model_dump(exclude_defaults=True, exclude={"detector", "reduction"})
    options = []
    for name, value in changed.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{'' if value else 'no-'}{flag}")
        elif isinstance(value, tuple):
            options += [f"--{flag}", *map(str, value)]
        else:
            options.append(f"--{flag}={value}")
    return shlex.join(["medvision", "nodules", *options])


def _none() -> Candidates:
    empty = np.empty(0)
    return Candidates(np.empty((0, 3)), empty, empty, np.empty((0, 2, 3)), np.empty(0, np.int64))

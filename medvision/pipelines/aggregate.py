"""Judge slides as a whole: feature table, aggregator (attention MIL or CNN-LSTM), attention map, record, report.

Beside each slide's folder the run writes `predictions.csv` with a probability per class. The folders are such as
`medvision evaluate` reads: a slide's score is its probability, and its detections are none.
"""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.core.geometry import Spacing
from medvision.core.results import FloatArray, Raster
from medvision.models.mil import SlideModel, SlidePrediction, load_slide_model
from medvision.pipelines.aggregate_config import AggregateConfig
from medvision.pipelines.features import SlideJob, Trunk, features_of_source, open_slide, prepare_trunk
from medvision.pipelines.heatmap import locate_tissue, read_overview
from medvision.pipelines.slide_result import (
    DETECTIONS,
    describe_slide,
    describe_tissue,
    failed_outcome,
    measure_quality,
    write_pictures,
)
from medvision.report.build import read_record
from medvision.report.render import HTML, PDF, write_report
from medvision.sources.base import Source
from medvision.sources.write import write_raster
from medvision.store.features import FeatureTable
from medvision.store.features_config import FeaturesConfig
from medvision.store.files import atomic_write, make_output
from medvision.store.provenance import new_run_id, software_versions, utc_now
from medvision.store.records import (
    HeatmapInfo,
    Label,
    ModelInfo,
    RunRecord,
    SlideOutcome,
    SlideResult,
)
from medvision.store.store import ResultSpec, ResultStore

RESULT = "result.json"
RUN = "run.json"
ATTENTION = "attention.ome.tiff"
PREDICTIONS = "predictions.csv"
CHANNEL = "attention"


@dataclass(frozen=True, eq=False)
class Judge:
    """An aggregator with the trunk that makes its features, both ready to run."""

    config: AggregateConfig
    model: SlideModel
    trunk: Trunk
    threshold: float


def prepare_judge(config: AggregateConfig, on_windows: Callable[[int], None] | None = None) -> Judge:
    """The aggregator of `config` and its trunk.

    Raises:
        MedvisionError: if either cannot be had, or the trunk is not the one that the aggregator was trained on.
    """
    model = load_slide_model(config.model, classes=config.classes, positive=config.positive)
    trunk = prepare_trunk(trunk_config(model, config), on_windows)
    model.refuse_other(trunk.source)
    if trunk.source.dimension != model.contract.dimension:
        raise UsageError(
            f"{model.name} takes {model.contract.dimension} features, and trunk {trunk.source.trunk!r} gives "
            f"{trunk.source.dimension}; name another with --trunk"
        )
    threshold = model.contract.threshold if config.threshold is None else config.threshold
    return Judge(config, model, trunk, threshold)


def trunk_config(model: SlideModel, config: AggregateConfig) -> FeaturesConfig:
    """How the aggregator's trunk is asked for: as in its training, with what `config` gives put over it."""
    fields = dict(model.contract.trunk)
    if "model" not in fields and config.trunk is None:
        known = "" if model.contract.features is None else f" ({model.contract.features.trunk})"
        raise UsageError(
            f"{model.name} does not say where the trunk of its features is{known}; pass --trunk, with a name or a "
            "contract file"
        )
    given = {
        "model": config.trunk,
        "weights": config.trunk_weights,
        "spacing": config.spacing,
        "window": config.window,
        "slide_spacing": config.slide_spacing,
    }
    fields |= {name: value for name, value in given.items() if value is not None}
    fields |= {
        "unread_limit": config.unread_limit,
        "device": config.device,
        "batch_size": config.batch_size,
        "readers": config.readers,
    }
    try:
        return FeaturesConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"{model.name}: says wrong things of its trunk ({where}: {first['msg']})"
        ) from error


def aggregate_slides(
    jobs: Sequence[SlideJob], out: Path, judge: Judge, on_plan: Callable[[str, int], None] | None = None
) -> Iterator[SlideOutcome]:
    """Judge slides one after the other into folders below `out`; one that fails does not stop the others.

    `predictions.csv` is written once the last is done. `on_plan` is told each slide's name and number of windows.
    """
    make_output(out)
    outcomes = []
    for job in jobs:
        outcome = aggregate_slide(job, out, judge, on_plan)
        outcomes.append(outcome)
        yield outcome
    write_predictions(out, outcomes, judge.model.contract.classes)


def aggregate_slide(
    job: SlideJob, out: Path, judge: Judge, on_plan: Callable[[str, int], None] | None = None
) -> SlideOutcome:
    """Judge one slide into `out/<name>/`: record, attention raster, pictures, report. A failure is an outcome too."""
    started, began = time.perf_counter(), utc_now()
    try:
        source = open_slide(job, judge.trunk)
        try:
            return _Judging(job, out, judge, source, on_plan, started, began).outcome()
        finally:
            source.close()
    except Exception as error:  # noqa: BLE001 - recorded with its reason, and logged where nobody foresaw it
        return failed_outcome(job.path, job.name, error, time.perf_counter() - started)


def attention_raster(table: FeatureTable, attention: FloatArray) -> Raster:
    """Attention (n,) of a table's windows on their lattice, in µm from the slide's corner; NaN where none was taken."""
    info = table.info
    values = np.full((*info.lattice, 1), np.nan, np.float32)
    values[table.windows.cell_row, table.windows.cell_column, 0] = attention
    cell = info.source.stride_px * info.source.spacing_um
    sides = zip(info.slide_shape, info.slide_spacing_um, strict=True)
    return Raster(
        values=values,
        spacing=Spacing((cell, cell)),
        channels=(CHANNEL,),
        extent=tuple(n * s for n, s in sides),
    )


def relative_attention(raster: Raster) -> Raster:
    """Attention as a share of the largest on the slide, 0 to 1: what the picture shows."""
    largest = float(np.nanmax(raster.values))
    scale = 1 / largest if largest > 0 else 0.0
    return Raster(
        raster.values * np.float32(scale), raster.spacing, raster.channels, raster.offset, raster.extent
    )


def write_predictions(out: Path, outcomes: Sequence[SlideOutcome], classes: tuple[str, ...]) -> Path:
    """`predictions.csv`: slide, label, and the probability of each class; slides without a result are left out."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("slide", "label", *classes))
    for outcome in outcomes:
        if outcome.status == "failed":
            continue
        result = read_record(out / outcome.name / RESULT, SlideResult)
        if result.class_probabilities:
            found = (f"{result.class_probabilities[name]:.6f}" for name in classes)
            rows.writerow((outcome.name, result.label or "", *found))
    path = out / PREDICTIONS
    atomic_write(path, text.getvalue().encode())
    return path


@dataclass(eq=False)
class _Judging:
    """One slide being judged."""

    job: SlideJob
    out: Path
    judge: Judge
    source: Source
    on_plan: Callable[[str, int], None] | None
    started: float
    began: str

    def outcome(self) -> SlideOutcome:
        """Make or find the result, and say what became of the slide."""
        folder = self.judge.config.features
        tables = make_output(self.out / "features" if folder is None else folder)
        table, _ = features_of_source(self.source, self.job, tables, self.judge.trunk, self.on_plan)
        entry = ResultStore(self.out).get_or_make(
            self._spec(), lambda made: self._make(made, table), name=self.job.name, of_run=(RUN, HTML, PDF)
        )
        result = read_record(entry.folder / RESULT, SlideResult)
        return SlideOutcome(
            slide=str(self.job.path),
            name=self.job.name,
            status="no tissue" if result.verdict == "no tissue" else "done" if entry.made else "unchanged",
            reason=result.reason,
            probability=result.probability,
            label=result.label,
            windows=table.info.windows,
            unread=table.info.unread,
            seconds=round(time.perf_counter() - self.started, 3),
        )

    def _spec(self) -> ResultSpec:
        return ResultSpec(
            kind="aggregate",
            name=self.job.path.name,
            source=self.source.id,
            model=digest_json([self.judge.model.digest, self.judge.trunk.model.digest]),
            config={**self._fields()},
        )

    def _fields(self) -> dict[str, str | int | float | bool | None]:
        """What changes a result; where and how fast it was computed does not."""
        source = self.judge.trunk.source
        spacing = self.source.spacing
        return {
            "aggregator": self.judge.model.contract.architecture,
            "trunk": source.trunk,
            "trunk_digest": source.digest,
            "stride": source.stride_px,
            "minimum_tissue": source.minimum_tissue,
            "threshold": self.judge.threshold,
            "unread_limit": self.judge.config.unread_limit,
            "slide_spacing": None if spacing is None else spacing.mean,
            "precision": self.judge.trunk.runner.precision,
            "backend": self.judge.trunk.runner.backend,
            "batch_size": self.judge.config.batch_size,
        }

    def _make(self, folder: Path, table: FeatureTable) -> None:
        overview = read_overview(self.source)
        tissue = locate_tissue(overview)
        prediction: SlidePrediction | None = None
        shown: Raster | None = None
        heatmap: HeatmapInfo | None = None
        if table.windows.read.any():
            prediction = self.judge.model.predict(table.vectors(), self.judge.config.device)
            if prediction.attention is not None:
                raster = attention_raster(table, prediction.attention)
                write_raster(folder / ATTENTION, raster)
                shown, heatmap = relative_attention(raster), _heatmap(raster, table)
        images, thumbnail_um = write_pictures(overview, tissue, shown, CHANNEL, folder)
        (folder / DETECTIONS).write_text("probability,x,y\n", encoding="utf-8")
        fields = self._fields()
        probability = (
            None if prediction is None else prediction.probabilities[self.judge.model.contract.positive]
        )
        result = SlideResult(
            verdict="no tissue" if prediction is None else "done",
            reason="no tissue was found on this slide, so there was nothing to judge"
            if prediction is None
            else "",
            slide=describe_slide(self.source, self.job.path.name),
            model=self._model_info(),
            config=fields,
            config_digest=digest_json(fields),
            software=software_versions(),
            threshold=self.judge.threshold,
            probability=None if probability is None else round(probability, 6),
            score_rule="" if prediction is None else self._rule(table),
            label=self._label(probability),
            heatmap=heatmap,
            map="none" if heatmap is None else "attention",
            class_probabilities={}
            if prediction is None
            else {name: round(value, 6) for name, value in prediction.probabilities.items()},
            tissue=describe_tissue(tissue, overview),
            qc=() if prediction is None else measure_quality(self.source, tissue, overview),
            limits=self._limits(table, heatmap is not None),
            images=images,
            thumbnail_spacing_um=thumbnail_um,
        )
        (folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / RUN).write_text(self._run_record().model_dump_json(indent=2) + "\n", encoding="utf-8")
        write_report(folder)

    def _label(self, probability: float | None) -> Label | None:
        if probability is None:
            return None
        return "positive" if probability >= self.judge.threshold else "negative"

    def _rule(self, table: FeatureTable) -> str:
        read = int(table.windows.read.sum())
        return (
            f"{self.judge.model.contract.architecture} over the features of {read} windows, in reading order"
        )

    def _limits(self, table: FeatureTable, attended: bool) -> tuple[str, ...]:
        notes = ["The slide is judged as a whole: no region is outlined or measured."]
        if attended:
            notes.append("Attention says how much a window counted, not what it shows.")
        if table.info.unread:
            notes.append(
                f"{table.info.unread} of {table.info.windows} windows could not be decoded and were left out."
            )
        least = table.info.source.minimum_tissue
        notes.append(f"Windows with less than {least:.0%} tissue were left out.")
        return tuple(notes)

    def _model_info(self) -> ModelInfo:
        model, source = self.judge.model, self.judge.trunk.source
        return ModelInfo(
            name=model.name,
            version=model.contract.version,
            digest=model.digest,
            classes=model.contract.classes,
            positive=model.contract.positive,
            window_px=(source.window_px, source.window_px),
            spacing_um=source.spacing_um,
            calibration=model.contract.calibration,
            card=model.card,
        )

    def _run_record(self) -> RunRecord:
        config = self.judge.config
        changed = config.model_dump(
            exclude_defaults=True, mode="json", exclude={"model", "trunk_weights", "features"}
        )
        options = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
        return RunRecord(
            run_id=new_run_id(),
            started_utc=self.began,
            finished_utc=utc_now(),
            seconds=round(time.perf_counter() - self.started, 3),
            device=str(self.judge.trunk.engine.device),
            batch_size=config.batch_size,
            precision=self.judge.trunk.runner.precision,
            backend=self.judge.trunk.runner.backend,
            tiles_per_second=None,
            command=shlex.join(["medvision", "aggregate", *options]),
        )


def _heatmap(raster: Raster, table: FeatureTable) -> HeatmapInfo:
    return HeatmapInfo(
        file=ATTENTION,
        stride_um=round(raster.spacing.mean, 6),
        shape=(raster.values.shape[0], raster.values.shape[1]),
        windows=table.info.windows,
        unread=table.info.unread,
    )

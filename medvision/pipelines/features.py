"""From a slide to its feature table: tissue, windows in reading order, trunk, engine, store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvision.core.errors import UnreadableSourceError
from medvision.core.features import FeatureSource
from medvision.core.geometry import Spacing
from medvision.core.results import FloatArray
from medvision.engine.backends import Runner
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.engine.plan import TilePlan, grid
from medvision.engine.rows import RowsSink
from medvision.models.trunks import TrunkSpec, dimension_of, load_trunk
from medvision.ops.tissue import box_share
from medvision.pipelines.heatmap import locate_tissue, read_overview, spacing_of, stride_px
from medvision.pipelines.slide_result import failed_outcome
from medvision.sources import extent_at, open_source
from medvision.sources.base import Source
from medvision.sources.spacing import require_spacing
from medvision.store.cohort import CohortSlide, read_cohort
from medvision.store.features import FeatureInfo, FeatureTable, WindowTable, read_features, write_features
from medvision.store.features_config import FeaturesConfig
from medvision.store.files import make_output, safe_name, safe_names
from medvision.store.records import SlideOutcome
from medvision.store.store import ResultSpec, ResultStore


@dataclass(frozen=True, eq=False)
class Trunk:
    """A trunk ready to run, with the settings of a run: made once, used for every slide."""

    config: FeaturesConfig
    model: PatchModel
    source: FeatureSource
    engine: PatchEngine
    runner: Runner


@dataclass(frozen=True, slots=True)
class SlideJob:
    """A slide to do: its file, the name of its folder, and its level-0 µm/px where the file's are not meant."""

    path: Path
    name: str
    spacing_um: float | None = None


def jobs_of(slides: Sequence[Path]) -> list[SlideJob]:
    """Slides given by their files alone."""
    return [SlideJob(path, name) for path, name in zip(slides, safe_names(slides), strict=True)]


def cohort_jobs(manifest: Path, split: str | None = None) -> list[SlideJob]:
    """The slides of a cohort, or of one split of it; their folders are called after their `slide_id`."""
    cohort = read_cohort(manifest)
    chosen = cohort.slides if split is None else cohort.of(split)
    return [cohort_job(slide) for slide in chosen]


def cohort_job(slide: CohortSlide) -> SlideJob:
    """A slide of a cohort; an identifier that is no file name is made one."""
    return SlideJob(slide.path, safe_name(f"{slide.slide_id}.slide"), slide.spacing_um)


def prepare_trunk(config: FeaturesConfig, on_windows: Callable[[int], None] | None = None) -> Trunk:
    """The trunk that `config` names.

    Raises:
        MedvisionError: if it cannot be had, or does not fit the device, stride or precision.
    """
    model = load_trunk(
        TrunkSpec(config.model, config.weights, config.window, config.spacing, blocks=config.blocks)
    )
    stride = stride_px(model, model.window[0] if config.stride is None else config.stride)
    source = FeatureSource(
        trunk=model.name,
        digest=model.digest,
        dimension=dimension_of(model),
        window_px=model.window[0],
        spacing_um=spacing_of(model),
        stride_px=stride,
        minimum_tissue=config.minimum_tissue,
    )
    settings = EngineSettings(
        device=config.device,
        batch_size=config.batch_size,
        readers=config.readers,
        precision=config.precision,
        backend=config.backend,
    )
    engine = PatchEngine(settings, on_windows)
    return Trunk(config, model, source, engine, engine.prepare(model))


def compute_features(
    jobs: Sequence[SlideJob], out: Path, trunk: Trunk, on_plan: Callable[[str, int], None] | None = None
) -> Iterator[SlideOutcome]:
    """Feature tables of slides, each in a folder below `out`; one that fails does not stop the others.

    A table that is there, made from the same slide content, trunk and settings, is kept ("unchanged").
    `on_plan` is told each slide's name and number of windows before it runs.
    """
    make_output(out)
    for job in jobs:
        started = time.perf_counter()
        try:
            table, made = features_of_slide(job, out, trunk, on_plan)
            info = table.info
            yield SlideOutcome(
                slide=str(job.path),
                name=job.name,
                status="no tissue" if not info.windows else "done" if made else "unchanged",
                windows=info.windows,
                unread=info.unread,
                seconds=round(time.perf_counter() - started, 3),
            )
        except Exception as error:  # noqa: BLE001 - recorded with its reason, and logged where nobody foresaw it
            yield failed_outcome(job.path, job.name, error, time.perf_counter() - started)


def features_of_slide(
    job: SlideJob, out: Path, trunk: Trunk, on_plan: Callable[[str, int], None] | None = None
) -> tuple[FeatureTable, bool]:
    """The feature table of one slide in `out/<name>/`, and whether it was made now.

    Raises:
        MedvisionError: if the slide cannot be opened, has no spacing, or too much of it cannot be decoded.
    """
    source = open_slide(job, trunk)
    try:
        return features_of_source(source, job, out, trunk, on_plan)
    finally:
        source.close()


def open_slide(job: SlideJob, trunk: Trunk) -> Source:
    """The slide of a job, with the spacing that the job or the configuration supplies."""
    return open_source(job.path, trunk.config.slide_spacing if job.spacing_um is None else job.spacing_um)


def features_of_source(
    source: Source,
    job: SlideJob,
    out: Path,
    trunk: Trunk,
    on_plan: Callable[[str, int], None] | None = None,
) -> tuple[FeatureTable, bool]:
    """`features_of_slide` for the job's source, opened."""
    title, name = job.path.name, job.name
    store = ResultStore(out)
    spec = _spec(source, title, trunk)

    def make(folder: Path) -> None:
        scratch = store.scratch(spec, name)
        plan, tissue = plan_windows(source, trunk.source)
        if on_plan is not None:
            on_plan(name, len(plan))
        sink = RowsSink(plan, trunk.source.dimension, scratch / "rows.f32")
        rows, stats = trunk.engine.run(source, plan, trunk.runner, sink, scratch / "progress.npz")
        if len(stats.unread) > trunk.config.unread_limit * len(plan):
            share = len(stats.unread) / len(plan)
            raise UnreadableSourceError(
                f"{title}: {len(stats.unread)} of {len(plan)} windows ({share:.1%}) could not be decoded, "
                f"more than the limit of {trunk.config.unread_limit:.0%}"
            )
        windows = window_table(source, plan, tissue, stats.unread)
        write_features(folder, _info(source, title, trunk, plan, len(stats.unread)), rows, windows)

    entry = store.get_or_make(spec, make, name=name)
    return read_features(entry.folder), entry.made


def plan_windows(source: Source, wanted: FeatureSource) -> tuple[TilePlan, FloatArray]:
    """Windows of a feature table in row-major order of their cells, and the share of tissue of each cell `(n,)`.

    With a `minimum_tissue` of 0 every cell of the lattice is taken, and the share is still measured.
    """
    spacing_um = wanted.spacing_um
    base = require_spacing(source)
    overview = read_overview(source)
    tissue = locate_tissue(overview)
    window = (wanted.window_px, wanted.window_px)
    stride = (wanted.stride_px, wanted.stride_px)
    spacing = Spacing((spacing_um, spacing_um), "um", base.origin)
    plan = grid(source.id, extent_at(source, spacing_um), window, stride, spacing)
    share = box_share(tissue.mask, overview.spacing_um, plan.cores, spacing_um).astype(np.float32)
    kept = share >= wanted.minimum_tissue
    return plan.keep(kept), share[kept]


def window_table(
    source: Source,
    plan: TilePlan,
    tissue: FloatArray,
    unread: Sequence[int],
) -> WindowTable:
    """The windows of a plan in level-0 pixels."""
    base, spacing = require_spacing(source), plan.spacing
    assert spacing is not None, "windows of tissue have a spacing"
    assert plan.lattice is not None, "they lie on a grid"
    assert plan.cells is not None, "they lie on a grid"
    scale = np.array([spacing.mean / s for s in base.values[:2]])
    corners = plan.boxes[:, 0, :] * scale
    rows, columns = np.unravel_index(plan.cells, plan.lattice.shape)
    read = np.ones(len(plan), bool)
    read[list(unread)] = False
    return WindowTable(
        row=np.ascontiguousarray(corners[:, 0]),
        column=np.ascontiguousarray(corners[:, 1]),
        cell_row=rows.astype(np.int64),
        cell_column=columns.astype(np.int64),
        tissue=tissue,
        read=read,
    )


def _spec(source: Source, title: str, trunk: Trunk) -> ResultSpec:
    return ResultSpec(
        kind="features",
        name=title,
        source=source.id,
        model=trunk.model.digest,
        config={
            **trunk.source.model_dump(mode="json"),
            "slide_spacing_um": list(require_spacing(source).values),
            "dtype": trunk.config.dtype,
            "unread_limit": trunk.config.unread_limit,
            "precision": trunk.runner.precision,
            "backend": trunk.runner.backend,
            "batch_size": trunk.config.batch_size,
        },
    )


def _info(source: Source, title: str, trunk: Trunk, plan: TilePlan, unread: int) -> FeatureInfo:
    base = require_spacing(source)
    rows, columns = source.levels[0].shape
    assert plan.lattice is not None, "a grid plan"
    return FeatureInfo(
        slide=title,
        slide_digest=source.id,
        slide_shape=(rows, columns),
        slide_spacing_um=(base.values[0], base.values[1]),
        source=trunk.source,
        lattice=(plan.lattice.shape[0], plan.lattice.shape[1]),
        dtype=trunk.config.dtype,
        windows=len(plan),
        unread=unread,
    )

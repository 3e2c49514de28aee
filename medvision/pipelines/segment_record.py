"""What is written down of a segmentation: model or method, windows, checks, and what the result does not cover."""

from __future__ import annotations

import shlex

from medvision.core.digest import digest_json
from medvision.engine.engine import RunStats
from medvision.models.segmentation.tiling import SEAMLESS
from medvision.pipelines.configured_segment import ReadySegment
from medvision.pipelines.segment_case import Case
from medvision.pipelines.segment_classical import CLASSICAL
from medvision.pipelines.segment_config import SegmentConfig
from medvision.pipelines.segment_labels import Tally
from medvision.pipelines.segment_methods import read_choice
from medvision.pipelines.segment_run import Found
from medvision.store.image_records import FigureInfo
from medvision.store.provenance import software_versions
from medvision.store.records import QcMeasure
from medvision.store.segment_records import SegmentModelInfo, SegmentResult, TilingInfo


def segment_result(
    case: Case,
    config: SegmentConfig,
    ready: ReadySegment | None,
    found: Found,
    tally: Tally,
    confidence: float | None,
    files: dict[str, str],
    pictures: tuple[dict[str, str], float | None, dict[str, float]],
) -> SegmentResult:
    """The record of one case; `confidence` is that before parts were removed."""
    fields = config.findings_fields()
    images, width, views = pictures
    exact = _is_exact(found)
    return SegmentResult(
        case=case.info,
        model=_method(config) if ready is None else describe_segment_model(ready, case.ends),
        config=fields,
        config_digest=digest_json(fields),
        software=software_versions(),
        tiling=_tiling(case, found, exact),
        classes=tally.totals(found.image.labels.size),
        largest=tally.listed,
        removed=tally.removed,
        confidence=confidence,
        files=files,
        qc=() if found.stats is None else _checks(found.stats),
        limits=_limits(found, tally, config, exact),
        images=images,
        picture_width=width,
        views=views,
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
        elif isinstance(value, (list, tuple)):
            options += [f"--{flag}={one}" for one in value]
        else:
            options.append(f"--{flag}={value}")
    return shlex.join(["medvision", "segment", *options])


def _method(config: SegmentConfig) -> SegmentModelInfo:
    """A method without a network."""
    choice = read_choice(CLASSICAL, config.method or "")
    said = ", ".join(f"{name} {value}" for name, value in choice.fields().items() if name != "method")
    return SegmentModelInfo(
        name=choice.name,
        architecture=f"{choice.method.summary} ({choice.method.paper})",
        classes=(),
        values=said,
        calibration="gives no probabilities",
    )


def _is_exact(found: Found) -> bool:
    return found.tiling is not None and found.tiling.exact and (found.seam is None or found.seam <= SEAMLESS)


def _tiling(case: Case, found: Found, exact: bool) -> TilingInfo | None:
    tiling, stats = found.tiling, found.stats
    if tiling is None or stats is None:
        return None
    return TilingInfo(
        extent=case.extent,
        window=tiling.window,
        step=tiling.step,
        margin=tiling.margin,
        blend=tiling.blend,
        windows=stats.windows,
        unread=len(stats.unread),
        exact=exact,
        influence=tiling.reach.influence,
        seam_difference=None if found.seam is None else float(f"{found.seam:.2g}"),
    )


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


def _limits(found: Found, tally: Tally, config: SegmentConfig, exact: bool) -> tuple[str, ...]:
    """Sentences on what the result does not cover."""
    notes = []
    if found.tiling is not None and any(found.tiling.parted) and not exact:
        notes.append(
            f"Windows were made one by {_blend(found.tiling.blend)}: near their edges the result differs from one run "
            f"over the whole, on noise by up to {found.seam or 0.0:.2g} of a probability."
        )
    if found.stats is not None and found.stats.unread:
        notes.append(
            f"{len(found.stats.unread)} windows could not be decoded; they are background in the mask."
        )
    if tally.removed:
        notes.append(f"{tally.removed:,} parts smaller than {config.minimum_size:g} became background.")
    if config.steps:
        notes.append(
            f"After the segmentation: {', '.join(config.steps)}. No probability stands behind these steps."
        )
    if config.tissue_only:
        notes.append("Windows without tissue were not looked at; they are background in the mask.")
    if config.method is None:
        notes.append("A pixel is of one class only; what no class was trained on gets one all the same.")
    else:
        notes.append(
            "The method knows brightness and colour alone; what a class means is for the reader to say."
        )
    return tuple(notes)


def _blend(blend: str) -> str:
    return "their cores" if blend == "none" else f"a {blend} blend"

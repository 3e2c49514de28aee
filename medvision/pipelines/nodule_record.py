"""What the record of a searched scan says besides its findings: the scan, the networks, and what is not covered."""

from __future__ import annotations

from dataclasses import dataclass

from medvision.models.nodules.contract import DetectorContract
from medvision.models.nodules.run import Detection, Lungs
from medvision.ops.candidates import Candidates
from medvision.pipelines.configured_nodules import ReadyNet
from medvision.pipelines.nodule_config import NoduleConfig
from medvision.pipelines.nodule_findings import Floats, Sides
from medvision.sources.base import Values, VolumeSource
from medvision.sources.spacing import require_spacing
from medvision.store.image_records import FigureInfo
from medvision.store.scan_records import Finding, NoduleModelInfo, ScanInfo


@dataclass(frozen=True, eq=False)
class FoundInScan:
    """What the networks and measures say of a scan. `scores` are those of `candidates`, falling."""

    coarse: Values
    lungs: Lungs
    sides: Sides
    detection: Detection | None
    candidates: Candidates
    scores: Floats
    unscored: int


def describe_scan(source: VolumeSource, shown: str, series: str) -> ScanInfo:
    """The scan as it was read; `shown` is what it is called, and `series` what tables call it."""
    spacing = require_spacing(source, "mm")
    assert source.frame is not None, "a scan with a spacing has a frame"
    planes, rows, columns = source.levels[0].shape
    plane, row, column = spacing.values
    return ScanInfo(
        name=shown,
        series=series,
        digest=source.id,
        reader=source.reader,
        reader_reason=source.why,
        vendor=source.vendor,
        shape=(planes, rows, columns),
        spacing_mm=(plane, row, column),
        spacing_origin=spacing.origin,
        axes=source.frame.letters,
        oblique_degrees=round(source.frame.obliqueness, 2),
        quantity=source.quantity,
        metadata=dict(source.metadata),
        notes=source.notes,
    )


def describe_net(net: ReadyNet) -> NoduleModelInfo:
    """A network, as its contract says it."""
    contract = net.model.contract
    return NoduleModelInfo(
        role="detector" if isinstance(contract, DetectorContract) else "reduction",
        name=net.model.name,
        version=contract.version,
        digest=net.digest,
        architecture=contract.architecture,
        window=contract.window,
        spacing_mm=contract.spacing_mm,
        hu=contract.hu,
        temperature=contract.temperature,
        calibration=contract.calibration,
        figures={name: FigureInfo(**one.model_dump()) for name, one in contract.figures.items()},
    )


def limits_of(found: FoundInScan, findings: tuple[Finding, ...], config: NoduleConfig) -> tuple[str, ...]:
    """Sentences on what the result does not cover."""
    if found.detection is None:
        return ("No network ran: the scan shows no lungs by the steps of the lung mask.",)
    notes = [
        "Only what the networks were trained to find is looked for; whatever else the scan shows is not reported.",
        "Size bands are those of Lung-RADS 2022 for a solid nodule at a first screening. Whether a nodule is solid, "
        "has grown or is benign is not judged, and no category is given.",
    ]
    if config.reduction is None:
        notes.append("No reduction of false positives ran: scores are the detector's.")
    if not found.lungs.found:
        notes.append("No lungs were found, so the whole scan was searched, and sides are not told.")
    elif found.sides.info.count != 2:
        notes.append("The two lungs could not be told apart, so sides are not told.")
    boxed = sum(one.size_from == "detector" for one in findings)
    if boxed:
        notes.append(
            f"{boxed} of {len(findings)} findings could not be segmented, as happens at the chest wall and at vessels: "
            "their diameter is that of the detector's box, which is coarser."
        )
    if found.detection.unread:
        notes.append(f"{found.detection.unread} windows could not be decoded; nothing was looked for there.")
    if found.unscored:
        notes.append(
            f"{found.unscored} candidates could not be judged, as their surroundings could not be decoded."
        )
    if len(findings) > config.pictured:
        notes.append(f"The {config.pictured} most certain of {len(findings)} findings are pictured.")
    if len(found.scores) == config.candidates:
        notes.append(f"At most {config.candidates} candidates are kept; there may be more.")
    return tuple(notes)

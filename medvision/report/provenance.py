"""Where a result came from, in print: slide, model, run, settings, software."""

from __future__ import annotations

from collections.abc import Mapping

from medvision.report import format as text
from medvision.report.model import Fact, FactGroup
from medvision.store.image_records import ImageResult
from medvision.store.records import RunRecord, SlideResult
from medvision.store.scan_records import NoduleModelInfo, NoduleResult
from medvision.store.segment_records import SegmentResult

Scalar = str | int | float | bool | None

_RESIZES = {
    "squash": "the whole image stretched to it",
    "crop": "the middle square of the image",
    "pad": "the whole image set on black",
}


def provenance(result: SlideResult, run: RunRecord) -> tuple[FactGroup, ...]:
    """Groups of facts from which the result can be traced and repeated. Metadata is what the reader allowed through."""
    return _groups(
        result, run, FactGroup("Slide", _slide_facts(result)), FactGroup("Model", _model_facts(result))
    )


def image_provenance(result: ImageResult, run: RunRecord) -> tuple[FactGroup, ...]:
    """The same for an image."""
    return _groups(
        result,
        run,
        FactGroup("Image", _image_facts(result)),
        FactGroup("Model", _image_model_facts(result)),
    )


def scan_provenance(result: NoduleResult, run: RunRecord) -> tuple[FactGroup, ...]:
    """The same for a scan."""
    nets = (FactGroup(net.role.capitalize(), _net_facts(net)) for net in result.models)
    return _groups(result, run, FactGroup("Scan", _scan_facts(result)), *nets)


def segment_provenance(result: SegmentResult, run: RunRecord) -> tuple[FactGroup, ...]:
    """The same for what was segmented."""
    return _groups(
        result,
        run,
        FactGroup(result.case.kind.capitalize(), _case_facts(result)),
        FactGroup("Model", _segment_model_facts(result)),
        FactGroup("Windows", _tiling_facts(result)),
    )


def _groups(
    result: SlideResult | ImageResult | NoduleResult | SegmentResult, run: RunRecord, *own: FactGroup
) -> tuple[FactGroup, ...]:
    """What is special to a kind of result, and what all have."""
    groups = (
        *own,
        FactGroup("Run", _run_facts(result.config_digest, run)),
        FactGroup("Settings", _settings(result.config)),
        FactGroup("Software", _software(result.software)),
    )
    return tuple(
        FactGroup(group.title, tuple(_shown(fact) for fact in group.facts)) for group in groups if group.facts
    )


def _shown(fact: Fact) -> Fact:
    return Fact(text.visible(fact.label), text.visible(fact.value).strip() or text.MISSING, fact.code)


def _settings(config: Mapping[str, Scalar]) -> tuple[Fact, ...]:
    """What was set, and in one line the names of what was left to the model or the file."""
    given = sorted(config.items())
    facts = tuple(Fact(_spaced(name), _setting(value)) for name, value in given if value is not None)
    unset = ", ".join(_spaced(name) for name, value in given if value is None)
    return (*facts, Fact("Not set", unset)) if unset else facts


def _software(software: Mapping[str, str]) -> tuple[Fact, ...]:
    """This package and Python by themselves, the libraries in one line."""
    own = ("medvision", "python")
    facts = tuple(Fact(name, software[name]) for name in own if name in software)
    libraries = ", ".join(
        f"{name} {version}" for name, version in sorted(software.items()) if name not in own
    )
    return (*facts, Fact("libraries", libraries)) if libraries else facts


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _setting(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _slide_facts(result: SlideResult) -> tuple[Fact, ...]:
    slide = result.slide
    rows, columns = slide.shape
    spacing = "not stated" if slide.spacing_um is None else text.spacing(slide.spacing_um)
    if slide.spacing_origin is not None:
        spacing += " (supplied by the user)" if slide.spacing_origin == "supplied" else " (from the file)"
    reader = f"{slide.reader} ({slide.reader_reason})" if slide.reader_reason else slide.reader
    facts = [
        Fact("Name", slide.name),
        Fact("Content SHA-256", slide.digest, code=True),
        Fact("Size", f"{columns} × {rows} px, {text.plural(slide.levels, 'level')}" if rows else ""),
        Fact("Spacing", spacing),
        Fact("Reader", reader),
        Fact("Vendor", slide.vendor),
    ]
    return (*facts, *(Fact(_spaced(name), value) for name, value in sorted(slide.metadata.items())))


def _model_facts(result: SlideResult) -> tuple[Fact, ...]:
    model = result.model
    window = f"{model.window_px[1]} × {model.window_px[0]} px at {model.spacing_um:g} µm/px"
    classes = ", ".join(model.classes)
    return (
        Fact("Name and version", f"{model.name} {model.version}"),
        Fact("Weights SHA-256", model.digest, code=True),
        Fact("Classes", f"{classes} (reported: {model.positive})"),
        Fact("Window", window),
        Fact("Calibration", model.calibration),
        Fact("Card", model.card if "\n" not in model.card.strip() else "in result.json"),
    )


def _run_facts(config_digest: str, run: RunRecord) -> tuple[Fact, ...]:
    speed = f", {run.tiles_per_second:.4g} windows/s" if run.tiles_per_second else ""
    return (
        Fact("Run", run.run_id),
        Fact("Configuration SHA-256", config_digest, code=True),
        Fact("Started (UTC)", run.started_utc),
        Fact("Finished (UTC)", run.finished_utc),
        Fact("Duration", f"{text.duration(run.seconds)}{speed}"),
        Fact(
            "Device",
            f"{run.device}, batch {run.batch_size}, {run.precision}{run.backend and f', {run.backend}'}",
        ),
    )


def _image_facts(result: ImageResult) -> tuple[Fact, ...]:
    image = result.image
    rows, columns = image.shape
    facts = [
        Fact("Name", image.name),
        Fact("Content SHA-256", image.digest, code=True),
        Fact("Size", f"{columns} × {rows} px, {text.plural(image.bits, 'bit')} a sample"),
        Fact("Format", image.reader),
        Fact("Colour", "grey" if image.grey else "colour"),
        Fact("Shown", image.shown),
    ]
    if image.frame is not None:
        facts.append(Fact("Frame", str(image.frame)))
    return (*facts, *(Fact(_spaced(name), value) for name, value in sorted(image.metadata.items())))


def _image_model_facts(result: ImageResult) -> tuple[Fact, ...]:
    model = result.model
    looked_for = "" if model.positive is None else f" (looked for: {model.positive})"
    return (
        Fact("Name and version", f"{model.name} {model.version}"),
        Fact("Network", model.architecture),
        Fact("Weights SHA-256", model.digest, code=True),
        Fact("Classes", f"{', '.join(model.classes)}{looked_for}"),
        Fact("Input", f"{model.input_px} × {model.input_px} px, {_RESIZES.get(model.resize, model.resize)}"),
        Fact("Calibration", model.calibration),
        Fact("Temperature", f"{model.temperature:g}"),
    )


def _scan_facts(result: NoduleResult) -> tuple[Fact, ...]:
    scan = result.scan
    origin = "supplied by the user" if scan.spacing_origin == "supplied" else "from the file"
    oblique = f", oblique by {scan.oblique_degrees:g}°" if scan.oblique_degrees else ""
    facts = [
        Fact("Name", scan.name),
        Fact("Series in tables", scan.series),
        Fact("Content SHA-256", scan.digest, code=True),
        Fact("Size", f"{_times(scan.shape)} voxels (planes, rows, columns)"),
        Fact("Spacing", f"{_times(scan.spacing_mm)} mm ({origin})"),
        Fact("Axes", f"{scan.axes}{oblique}"),
        Fact("Reader", f"{scan.reader} ({scan.reader_reason})" if scan.reader_reason else scan.reader),
        Fact("Format", scan.vendor),
    ]
    return (*facts, *(Fact(_spaced(name), value) for name, value in sorted(scan.metadata.items())))


def _net_facts(net: NoduleModelInfo) -> tuple[Fact, ...]:
    return (
        Fact("Name and version", f"{net.name} {net.version}"),
        Fact("Network", net.architecture),
        Fact("Weights SHA-256", net.digest, code=True),
        Fact("Window", f"{_times(net.window)} voxels of {_times(net.spacing_mm)} mm"),
        Fact("Values", f"{net.hu[0]:g} to {net.hu[1]:g} HU"),
        Fact("Calibration", net.calibration),
        Fact("Temperature", f"{net.temperature:g}"),
    )


def _case_facts(result: SegmentResult) -> tuple[Fact, ...]:
    case = result.case
    spacing = "not known"
    if case.spacing is not None:
        origin = "supplied by the user" if case.spacing_origin == "supplied" else "from the file"
        spacing = f"{_times(case.spacing)} {'µm' if case.unit == 'um' else 'mm'} ({origin})"
    what = "voxels (planes, rows, columns)" if case.kind == "volume" else "px (rows, columns)"
    facts = [
        Fact("Name", case.name),
        Fact("Content SHA-256", case.digest, code=True),
        Fact("Size", f"{_times(case.shape)} {what}"),
        Fact("Spacing", spacing),
        Fact("Reader", f"{case.reader} ({case.reader_reason})" if case.reader_reason else case.reader),
        *((Fact("Axes", case.axes),) if case.axes else ()),
        *((Fact("Shown", case.shown),) if case.shown else ()),
    ]
    return (*facts, *(Fact(_spaced(name), value) for name, value in sorted(case.metadata.items())))


def _segment_model_facts(result: SegmentResult) -> tuple[Fact, ...]:
    model = result.model
    facts = [
        Fact("Name and version", f"{model.name} {model.version}"),
        Fact("Method", model.architecture),
        *((Fact("Weights SHA-256", model.digest, code=True),) if model.digest else ()),
        Fact("Classes", ", ".join(model.classes)),
    ]
    if model.window:
        unit = "µm" if model.unit == "um" else "mm"
        at = "pixels of any size" if model.spacing is None else f"pixels of {_times(model.spacing)} {unit}"
        facts += [
            Fact("Window", f"{_times(model.window)} {at}"),
            Fact("Values", model.values),
            Fact("Calibration", model.calibration),
            Fact("Temperature", f"{model.temperature:g}"),
        ]
    return tuple(facts)


def _tiling_facts(result: SegmentResult) -> tuple[Fact, ...]:
    tiling = result.tiling
    if tiling is None:
        return ()
    reach = "everything in the window" if tiling.influence is None else f"{_times(tiling.influence)} px"
    facts = [
        Fact("Windows", f"{tiling.windows:,} of {_times(tiling.window)} px"),
        Fact("Step", f"{_times(tiling.step)} px"),
        Fact("Made one by", {"none": "cores"}.get(tiling.blend, f"{tiling.blend} blend")),
        Fact("As one run over the whole", "yes" if tiling.exact else "no"),
        Fact("Influence of an edge", reach),
    ]
    if tiling.seam_difference is not None:
        facts.append(Fact("Difference at a seam, on noise", f"{tiling.seam_difference:.2g}"))
    return tuple(facts)


def _times(values: tuple[float, ...]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)

"""Score single pictures, or folders of them: `results.json` with probabilities by class.

How a picture meets the model's window:

- Without a spacing it is taken to show one window: its central square is area-averaged to the window, and the result
  says which spacing that assumes. (A 256-pixel patch at 0.25 µm/px for a window of 128 pixels at 0.5.)
- With a spacing, of the file or supplied, a field within 5% of one window is treated the same. Any other is read at the
  model's spacing and covered by windows spread evenly inside it; the mean and the maximum over them are reported. Where
  it is narrower than a window, background is added around it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvision.core.errors import MedvisionError, UsageError
from medvision.core.geometry import Box, Spacing
from medvision.core.results import Table
from medvision.engine.contract import PatchModel
from medvision.engine.engine import EngineSettings, Job, PatchEngine
from medvision.engine.plan import TilePlan, rois
from medvision.engine.sinks import TableSink
from medvision.sources import Source, extent_at, open_source
from medvision.sources.spacing import COARSEST_UM, FINEST_UM
from medvision.store.files import atomic_write, make_output
from medvision.store.records import Record

SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".svs",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".bif",
        ".vms",
        ".dcm",
    ]
)
"""Files of these kinds are taken from a folder; a file that is named itself may be of any kind."""

_ONE_WINDOW = 0.05
"""A field that differs from one window by less than this share is resized to it, rather than padded or tiled."""

_FINEST_UM = 0.1
"""Below this, a picture without spacing is more likely a large field than one window, and the result says so."""


class Classified(Record):
    """One picture. `probabilities` are means over its windows, `maxima` the largest of any window."""

    path: str
    predicted: str
    probabilities: dict[str, float]
    maxima: dict[str, float]
    windows: int
    unread: int
    shape: tuple[int, int]
    spacing: str
    fit: str


class Failed(Record):
    """A picture that could not be scored, and why."""

    path: str
    reason: str


class ClassifyResults(Record):
    """The content of `results.json`."""

    schema_version: int = 1
    model: str
    model_version: str
    model_digest: str
    calibration: str
    classes: tuple[str, ...]
    notice: str = "Research use only: not for diagnosis."
    results: tuple[Classified, ...]
    failed: tuple[Failed, ...]


@dataclass(frozen=True, slots=True)
class ClassifyOutcome:
    """Where the results are, and what they say, in the order in which the pictures were given."""

    file: Path
    results: tuple[Classified, ...]
    failed: tuple[Failed, ...]


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A picture's windows, and how they came about, in words."""

    plan: TilePlan
    spacing: str
    fit: str


@dataclass(eq=False)
class _Item:
    path: Path
    source: Source
    fitted: _Fitted


@dataclass(eq=False)
class _Run:
    found: dict[Path, Classified] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)


def classify_images(
    paths: Sequence[Path],
    model: PatchModel,
    out: Path,
    *,
    spacing_um: float | None = None,
    device: str = "auto",
    batch_size: int = 32,
    readers: int = 2,
    on_windows: Callable[[int], None] | None = None,
) -> ClassifyOutcome:
    """Score pictures, or all pictures below folders, and write `out/results.json`.

    Args:
        spacing_um: micrometres per pixel of the pictures, in place of what their files say.
        on_windows: told the number of windows just scored.

    Raises:
        UsageError: before any work, if there is nothing to score, the model does not score windows of pictures, the
            spacing is none of a microscope, or `out` cannot be written to.
    """
    if model.output != "scores" or model.spacing is None or len(model.window) != 2:
        raise UsageError(f"model {model.name!r} does not score windows of pictures; choose a classifier")
    files = list_images(paths)
    refuse_image_spacing(spacing_um)
    make_output(out)
    engine = PatchEngine(EngineSettings(device, batch_size, readers), on_windows)
    run = _Run()
    for job, table, _ in engine.run_many(_jobs(files, model, spacing_um, run), model, pack=True):
        item: _Item = job.label
        _note(run, item, table, model)
        item.source.close()
    results = tuple(run.found[path] for path in files if path in run.found)
    failed = tuple(Failed(path=_text(p), reason=run.failed[p]) for p in files if p in run.failed)
    content = ClassifyResults(
        model=model.name,
        model_version=model.version,
        model_digest=model.digest,
        calibration=model.calibration,
        classes=model.classes,
        results=results,
        failed=failed,
    )
    file = out / "results.json"
    atomic_write(file, content.model_dump_json(indent=1).encode() + b"\n")
    return ClassifyOutcome(file, results, failed)


def list_images(paths: Sequence[Path]) -> list[Path]:
    """Files as given, and the pictures below folders in order of name; each once.

    Raises:
        UsageError: if a path does not exist, or no picture is found at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inner = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            found.update(dict.fromkeys(inner))
        elif path.exists():
            found[path] = None
        else:
            raise UsageError(f"{path}: no such file or folder")
    if not found:
        raise UsageError(
            f"{', '.join(map(str, paths)) or 'no path given'}: no pictures ({', '.join(sorted(SUFFIXES))})"
        )
    return list(found)


def refuse_image_spacing(spacing_um: float | None) -> None:
    """Refuse a spacing that no microscope has.

    Raises:
        UsageError: naming what usual ones are.
    """
    if spacing_um is not None and not FINEST_UM <= spacing_um <= COARSEST_UM:
        raise UsageError(
            f"--image-spacing {spacing_um:g} is outside {FINEST_UM:g} to {COARSEST_UM:g} µm/px; "
            "a picture at 20x has about 0.5, at 40x about 0.25"
        )


def _jobs(files: list[Path], model: PatchModel, spacing_um: float | None, run: _Run) -> Iterator[Job[Table]]:
    """Jobs, opened when their turn comes; what cannot be opened is noted and left out."""
    for path in files:
        try:
            source = open_source(path, spacing_um)
        except MedvisionError as error:
            run.failed[path] = str(error)
            continue
        try:
            fitted = _fit(source, model)
        except MedvisionError as error:
            run.failed[path] = str(error)
            source.close()
            continue
        sink = TableSink(fitted.plan, model.classes)
        yield Job(source, fitted.plan, sink, label=_Item(path, source, fitted))


def _fit(source: Source, model: PatchModel) -> _Fitted:
    """Windows of the model over a picture; sets the spacing of a source that has none to what one window implies."""
    if model.spacing is None:
        raise UsageError(f"model {model.name!r} states no spacing")
    wanted, window = model.spacing.mean, model.window[0]
    side = min(source.levels[0].shape)
    square = wanted * window / side
    origin = source.spacing
    field_um = side * (square if origin is None else origin.mean)
    whole = abs(field_um / (wanted * window) - 1) < _ONE_WINDOW
    oblong = max(source.levels[0].shape) > (1 + _ONE_WINDOW) * side
    if origin is None:
        said = f"assumed: {square:.4g} µm/px, as if the picture showed one window"
        if square < _FINEST_UM:
            said += "; no microscope scans so finely: pass the true spacing"
    else:
        said = f"{origin.origin}: {origin.mean:.4g} µm/px"
    if origin is None or (whole and not oblong):
        source.spacing = Spacing((square, square), "um", "supplied")
        extent = extent_at(source, wanted)
        what = "central square" if oblong else "whole picture"
        resized = f"{what} of {side} px resized to a window of {window} px at {wanted:g} µm/px"
        middle = [(size - window) // 2 for size in extent]
        boxes = [Box.at((middle[0], middle[1]), model.window)]
    else:
        extent = extent_at(source, wanted)
        rows, columns = (_starts(n, w) for n, w in zip(extent, model.window, strict=True))
        boxes = [Box.at(start, model.window) for start in itertools.product(rows, columns)]
        resized = (
            f"read at {wanted:g} µm/px: {extent[0]} × {extent[1]} px, {len(boxes)} windows of {window} px"
        )
    return _Fitted(rois(source.id, extent, boxes, model.spacing), said, resized)


def _starts(extent: int, window: int) -> list[int]:
    """Starts of the fewest windows that cover an axis, spread evenly in it; one window is centred on a short axis."""
    if extent <= window:
        return [-((window - extent) // 2)]
    count = math.ceil(extent / window)
    return [round(k * (extent - window) / (count - 1)) for k in range(count)]


def _note(run: _Run, item: _Item, table: Table, model: PatchModel) -> None:
    scores = np.stack([table.columns[name] for name in model.classes], axis=1)
    readable = ~np.isnan(scores).any(axis=1)
    if not readable.any():
        run.failed[item.path] = f"{item.path}: none of its {len(scores)} windows could be decoded"
        return
    mean, largest = scores[readable].mean(axis=0), scores[readable].max(axis=0)
    rows, columns = item.source.levels[0].shape
    run.found[item.path] = Classified(
        path=_text(item.path),
        predicted=model.classes[int(mean.argmax())],
        probabilities=_by_class(model, mean),
        maxima=_by_class(model, largest),
        windows=len(scores),
        unread=int((~readable).sum()),
        shape=(rows, columns),
        spacing=item.fitted.spacing,
        fit=item.fitted.fit,
    )


def _by_class(
    model: PatchModel, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> dict[str, float]:
    return {name: round(float(v), 6) for name, v in zip(model.classes, values, strict=True)}


def _text(path: Path) -> str:
    return path.as_posix()

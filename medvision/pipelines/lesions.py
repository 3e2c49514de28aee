"""Lesions of analysed slides from the heatmaps of two models, as tables of detections for an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medvision.core.errors import UsageError
from medvision.ops.lesion_scores import LESION_THRESHOLD, on_grid_of, two_model_lesions
from medvision.ops.nms import Peak
from medvision.store.files import atomic_write, make_output
from medvision.store.maps import SlideMap, list_results, read_map

SLIDE_SCORES = "slide_scores.csv"


@dataclass(frozen=True, slots=True)
class SlideLesions:
    """The lesions of one slide; `file` is its table of detections."""

    slide: str
    lesions: int
    probability: float | None
    file: Path


def score_lesions(
    first: Path, second: Path, out: Path, threshold: float = LESION_THRESHOLD
) -> Iterator[SlideLesions]:
    """Write `out/SLIDE.csv` (probability, x, y in level-0 pixels) for every slide, and `out/slide_scores.csv`.

    The first run says where lesions are, both say how probable they are: see `medvision.ops.lesion_scores`. Slide
    scores and spacings are the first run's. The second's heatmap may have another stride.

    Args:
        first: output folder of `medvision analyze` with the first model.
        second: that of the same slides with the second model.
        out: folder of the tables; made when absent.
        threshold: probability from which a cell of the first heatmap belongs to a lesion.

    Raises:
        UsageError: if a slide is in one run only, was not scored, or has another content in the other run.
    """
    folders, others = ({path.name: path for path in list_results(run)} for run in (first, second))
    if differ := sorted(folders.keys() ^ others.keys()):
        raise UsageError(f"{first} and {second}: slides in one of them only: {', '.join(differ)}")
    make_output(out)
    lines = ["slide,probability,spacing_um"]
    for name, folder in folders.items():
        one = read_map(folder)
        found = _score(one, read_map(others[name]), out, threshold)
        spacing = one.result.slide.spacing_um
        score = 0.0 if found.probability is None else found.probability
        lines.append(
            f"{name},{score:.6f},{'' if spacing is None else f'{(spacing[0] + spacing[1]) / 2:.6g}'}"
        )
        yield found
    atomic_write(out / SLIDE_SCORES, ("\n".join(lines) + "\n").encode())


def _score(first: SlideMap, second: SlideMap, out: Path, threshold: float) -> SlideLesions:
    a, b = first.result.slide, second.result.slide
    if a.digest != b.digest:
        raise UsageError(
            f"{first.name}: the two runs analysed different files of this name ({a.name}, {b.name})"
        )
    peaks: tuple[Peak, ...] = ()
    scale = (1.0, 1.0)
    if first.raster is not None and first.probability is not None:
        if second.raster is None or a.spacing_um is None:
            raise UsageError(f"{first.name}: one of the runs has a heatmap and the other has none")
        other = on_grid_of(second.raster, second.result.model.positive, first.raster)
        peaks = two_model_lesions(first.probability, other, threshold)
        cell = first.raster.spacing.values
        scale = (cell[0] / a.spacing_um[0], cell[1] / a.spacing_um[1])
    lines = ["probability,x,y"]
    for peak in peaks:
        row, column = (min(p * s, n) for p, s, n in zip(peak.position, scale, a.shape, strict=True))
        lines.append(f"{peak.probability:.6f},{column:.1f},{row:.1f}")
    path = out / f"{first.name}.csv"
    atomic_write(path, ("\n".join(lines) + "\n").encode())
    return SlideLesions(first.name, len(peaks), first.result.probability, path)

"""What a segmentation network makes of whole images, how good that is, and how sure it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import nn

from medvision.engine.blend import BlendSink, Canvas
from medvision.engine.engine import PatchEngine
from medvision.metrics.calibration import fit_softmax_temperature
from medvision.metrics.overlap import dice
from medvision.models.contract import Figure
from medvision.models.segmentation import SegmentContract, SegmentModel
from medvision.models.segmentation.tiling import choose_tiling
from medvision.ops.enlarge import linear_slabs
from medvision.sources.array_source import ArraySource
from medvision.training.accelerator import without_hooks
from medvision.training.figures import interval_over
from medvision.training.segment_classes import Labels
from medvision.training.segment_config import IGNORED
from medvision.training.segment_data import SegmentImage

Probabilities = npt.NDArray[np.float32]
_SAMPLED = 5000
"""Pixels of an image on which the temperature is fitted."""
_LEAST = 1e-30


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network as it is run over whole images held in memory, whose values are scaled to 0..1: in the windows, and
    with what lies beyond the image, that `medvision segment` takes."""

    model: SegmentModel
    engine: PatchEngine

    @classmethod
    def of(cls, net: nn.Module, contract: SegmentContract, engine: PatchEngine) -> Segmenter:
        """A copy of a network, which may still be learning."""
        return cls(SegmentModel("learning", without_hooks(net), contract), engine)

    def __call__(self, image: SegmentImage) -> Probabilities:
        """Probabilities `(classes, *shape)` of an image."""
        values, contract = image.scaled(), self.model.contract
        shape = values.shape[:-1]
        tiling = choose_tiling(contract, shape)
        plan = tiling.plan(image.content, shape)
        model = self.model.patch_model(0.0, 1.0)
        canvas = Canvas.of(plan, len(contract.classes))
        source = ArraySource(values, contract.axes, fill=0, path=image.pair.image)
        sink = BlendSink(plan, tiling.margin, tiling.blend, canvas)
        self.engine.run(source, plan, replace(model, window=tiling.window, spacing=None), sink)
        return canvas.values


def at_full_size(
    probabilities: Probabilities, image: SegmentImage, contract: SegmentContract
) -> Probabilities:
    """Probabilities of the pixels of the file itself, between those of the network's spacing interpolated linearly."""
    if image.full == probabilities.shape[1:] or contract.spacing is None or image.spacing is None:
        return probabilities
    steps = tuple(side / new for side, new in zip(image.spacing.values, contract.spacing, strict=True))
    return np.concatenate([slab for _, slab in linear_slabs(probabilities, image.full, steps)], axis=1)


def dice_of(truth: Labels, predicted: Labels, classes: int) -> list[float]:
    """Dice of each class but the first, over what counts; NaN of a class that is in neither."""
    counted = truth != IGNORED
    given, found = truth[counted], predicted[counted]
    return [dice(found == k, given == k, empty=float("nan")) for k in range(1, classes)]


def mean_dice(segment: Segmenter, images: Sequence[SegmentImage]) -> float:
    """The mean over classes, but the first, of the mean Dice of the images that have it; 0 where none has any."""
    classes = len(segment.model.contract.classes)
    rows = [dice_of(image.truth, most_likely(segment(image)), classes) for image in images]
    return _mean(np.array(rows))


def most_likely(probabilities: Probabilities) -> Labels:
    """The likeliest class of each pixel of `(classes, *shape)`."""
    return np.asarray(probabilities.argmax(axis=0), np.uint8)


def figures_of(
    names: Sequence[str], cases: Sequence[str], rows: Sequence[Sequence[float]], how: str
) -> dict[str, Figure]:
    """Dice by class and over classes from rows of `dice_of`, with intervals over whole cases.

    Args:
        names: of the classes but the first.
        cases: the patient or slide of each row.
        rows: one for each image.
        how: what the images are, in words.
    """
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    said = f"{how}: {len(rows)} images of {len(set(cases))} cases"
    over = names[0] if len(names) == 1 else "mean over classes"
    figures = {"dice": _figure(table, cases, f"{over}, {said}")}
    if len(names) > 1:
        for k, name in enumerate(names):
            if not np.isnan(table[:, k]).all():
                figures[f"dice_{name}"] = _figure(table[:, [k]], cases, said)
    return figures


def fit_temperature(segment: Segmenter, images: Sequence[SegmentImage], seed: int) -> float:
    """The temperature by which the network's logits are likeliest, on some thousand pixels of each image.

    Log-probabilities are logits but for a constant in each pixel, which changes no softmax.
    """
    rng = np.random.default_rng([seed, 11])
    logits, labels = [], []
    for image in images:
        flat = np.flatnonzero(image.truth != IGNORED)
        drawn = rng.choice(flat, min(_SAMPLED, len(flat)), replace=False)
        found = segment(image).reshape(len(segment.model.contract.classes), -1)[:, drawn]
        logits.append(np.log(np.maximum(found.T.astype(np.float64), _LEAST)))
        labels.append(image.truth.reshape(-1)[drawn].astype(np.int64))
    return fit_softmax_temperature(np.concatenate(logits), np.concatenate(labels))


def _figure(table: npt.NDArray[np.float64], cases: Sequence[str], protocol: str) -> Figure:
    interval = interval_over(cases, _mean, table)
    return Figure(value=_mean(table), interval=interval, protocol=protocol)


def _mean(table: npt.NDArray[np.float64]) -> float:
    """The mean over columns of the mean over rows that have a value."""
    known = ~np.isnan(table)
    counts = known.sum(axis=0)
    if not counts.any():
        return 0.0
    sums = np.where(known, table, 0).sum(axis=0)
    return float(np.mean(sums[counts > 0] / counts[counts > 0]))

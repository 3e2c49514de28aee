"""Maps of where in an image a class shows: Grad-CAM, and the occlusion test. Both are runs of the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from medvision.core.errors import UsageError
from medvision.core.results import FloatArray
from medvision.engine.engine import PatchEngine
from medvision.engine.plan import rois, whole
from medvision.engine.sinks import StackSink, TableSink
from medvision.models.explain import LastMap, gradcam_model, last_map
from medvision.models.image_model import ImageModel
from medvision.ops.overlay import colour_table, colourise
from medvision.ops.resize import Pixels, over_image
from medvision.pipelines.configured_image import ReadyImageModel
from medvision.pipelines.image_config import ImageConfig
from medvision.sources.array_source import ArraySource
from medvision.sources.occluded import OccludedSource
from medvision.store.image_records import SaliencyInfo

KERMANY_SQUARE = 20 / 299
"""Share of the input's side that Kermany et al. (Cell 2018) hid: 20 pixels of Inception-v3's 299."""
SALIENCY = "saliency.npy"
THUMBNAIL_SIDE = 1400
_SMALLEST_SIDE = 560
"""Smaller images are enlarged for the page, so that a map over them can be seen."""
_SMALLEST_PX = 4
_NOISE = 1e-6
"""Differences of probabilities below this come of the order of additions; stretched to colours they would mislead."""


@dataclass(frozen=True, eq=False)
class Saliency:
    """A map with what it means. `raw` float32 `(n, m)` as computed; `square` covers the network's input, 0 to 1."""

    info: SaliencyInfo
    raw: FloatArray
    square: FloatArray


def explain(
    ready: ReadyImageModel, pixels: Pixels, predicted: str, config: ImageConfig, engine: PatchEngine
) -> Saliency | None:
    """The map that `config` asks for, of the class it names or of the predicted one; None where it asks for none."""
    name = config.saliency_class or predicted
    index = ready.model.contract.classes.index(name)
    if config.saliency == "gradcam":
        return _gradcam(ready, pixels, name, index, engine)
    if config.saliency == "occlusion":
        return _occlusion(ready, pixels, name, index, config, engine)
    return None


def check_saliency(model: ImageModel, config: ImageConfig) -> LastMap | None:
    """Make sure that the network and its input allow the map asked for; returns the feature map of Grad-CAM.

    Raises:
        UsageError: with what to pass instead.
    """
    contract = model.contract
    if config.saliency_class is not None and config.saliency_class not in contract.classes:
        raise UsageError(
            f"--saliency-class {config.saliency_class!r} is none of the model's: {', '.join(contract.classes)}"
        )
    if config.saliency == "occlusion":
        square, _ = occlusion_sizes(contract.input_px, config)
        if square >= contract.input_px:
            raise UsageError(
                f"--occlusion-px {square} hides the whole input of {contract.input_px} px; choose less"
            )
    return last_map(model.net, contract.input_px) if config.saliency == "gradcam" else None


def occlusion_sizes(input_px: int, config: ImageConfig) -> tuple[int, int]:
    """Side of the hiding square and its stride, in pixels of the input."""
    square = config.occlusion_px or max(_SMALLEST_PX, round(input_px * KERMANY_SQUARE))
    return square, config.occlusion_stride or max(1, square // 2)


def occlusion_steps(input_px: int, config: ImageConfig) -> npt.NDArray[np.int64]:
    """Where squares begin along an axis: every stride, and flush with the far edge."""
    square, stride = occlusion_sizes(input_px, config)
    return np.unique(np.append(np.arange(0, input_px - square + 1, stride), input_px - square)).astype(
        np.int64
    )


def windows_of(model: ImageModel, config: ImageConfig) -> int:
    """Images that the network computes for one image: itself, and what the map asks for."""
    if config.saliency == "occlusion":
        return 2 + len(occlusion_steps(model.contract.input_px, config)) ** 2
    return 2 if config.saliency == "gradcam" else 1


def _gradcam(ready: ReadyImageModel, pixels: Pixels, name: str, index: int, engine: PatchEngine) -> Saliency:
    last = ready.last_map
    assert last is not None, "found when the configuration was checked"
    source = ArraySource(ready.model.fitted(pixels), fill=0)
    plan = whole(source.id, source.levels[0].shape)
    # Eager, as gradients are wanted; and in float32 as the answer is.
    runner = ready.prepared(gradcam_model(ready.patch_model, last, index), "eager")
    stack, _ = engine.run(source, plan, runner, StackSink(plan))
    raw = _steady(stack[0])
    scale = float(raw.max())
    channels, rows, columns = last.shape
    info = SaliencyInfo(
        method="gradcam",
        class_name=name,
        scale=float(f"{scale:.6g}"),
        unit="of the map's own largest value",
        detail=f"Grad-CAM of {last.module}: {channels} maps of {columns} × {rows}",
        shape=(rows, columns),
    )
    return Saliency(info, raw, _of_largest(raw, scale))


def _occlusion(
    ready: ReadyImageModel,
    pixels: Pixels,
    name: str,
    index: int,
    config: ImageConfig,
    engine: PatchEngine,
) -> Saliency:
    contract = ready.model.contract
    side = contract.input_px
    square, stride = occlusion_sizes(side, config)
    steps = occlusion_steps(side, config)
    image = ready.model.fitted(pixels)
    colour = tuple(round(255 * mean) for mean in contract.mean)
    places = tuple((int(row), int(column)) for row in steps for column in steps)
    # A square beyond the edge hides nothing: the whole image is computed as its copies are.
    hidden = OccludedSource(image, square, colour, ((side, side), *places))
    plan = rois(hidden.id, hidden.levels[0].shape, hidden.boxes)
    table, _ = engine.run(hidden, plan, ready.runner, TableSink(plan, contract.classes))
    logits = np.stack([table.columns[one] for one in contract.classes], axis=1).astype(np.float64)
    probability = ready.model.probabilities(logits)[:, index]
    drops = probability[0] - probability[1:]
    drops = _steady(np.where(np.abs(drops) < _NOISE, 0, drops)).reshape(len(steps), len(steps))
    covered = np.zeros((side, side), np.float64)
    count = np.zeros((side, side), np.float64)
    for (row, column), drop in zip(places, drops.ravel(), strict=True):
        area = (slice(row, row + square), slice(column, column + square))
        covered[area] += drop
        count[area] += 1
    # A stride above the square's side leaves places that were never hidden, of which nothing is known.
    seen = np.divide(covered, count, out=np.zeros_like(covered), where=count > 0).astype(np.float32)
    scale = max(float(seen.max()), 0.0)
    info = SaliencyInfo(
        method="occlusion",
        class_name=name,
        scale=float(f"{scale:.6g}"),
        unit="drop of the probability",
        detail=(
            f"square of {square} px of the {side} px input in the colour that the network takes as zero, every "
            f"{stride} px: {len(places)} places; a pixel has the mean drop of the squares over it"
        ),
        shape=(len(steps), len(steps)),
    )
    return Saliency(info, drops, _of_largest(seen, scale))


def _steady(values: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Values to four digits behind the first of the largest: sums made by more threads differ in the last bits."""
    largest = float(np.abs(values).max())
    if not 0 < largest < math.inf:
        return np.ascontiguousarray(values, np.float32)
    digits = 4 - math.floor(math.log10(largest))
    return np.round(np.asarray(values, np.float64), digits).astype(np.float32)


def _of_largest(values: FloatArray, scale: float) -> FloatArray:
    """Shares of the largest value, 0 to 1; what speaks against the class is 0."""
    return np.clip(values / scale, 0, 1).astype(np.float32) if scale > 0 else np.zeros_like(values)


def write_image_pictures(
    pixels: Pixels, saliency: Saliency | None, model: ImageModel, folder: Path
) -> dict[str, str]:
    """The image as a page shows it, and the coloured map over it, of one size; returns their names.

    A small image is enlarged by a whole factor, each pixel to a square, so that nothing is made up.
    """
    rows, columns = pixels.shape[:2]
    long = max(rows, columns)
    factor = min(1.0, THUMBNAIL_SIDE / long) if long >= _SMALLEST_SIDE else -(-_SMALLEST_SIDE // long)
    shape = (max(1, round(rows * factor)), max(1, round(columns * factor)))
    way = cv2.INTER_AREA if factor <= 1 else cv2.INTER_NEAREST
    thumbnail = cv2.resize(pixels, shape[::-1], interpolation=way)
    names = {"thumbnail": "thumbnail.jpg"}
    Image.fromarray(thumbnail).save(folder / names["thumbnail"], quality=92, optimize=True)
    if saliency is not None:
        heat = colourise(over_image(saliency.square, shape, model.contract.resize))
        names |= {"heatmap": "saliency.png", "colours": "colours.png"}
        # The legend's colours go with the map, so that a report rendered by a later version stays true.
        Image.fromarray(colour_table()[None]).save(folder / names["colours"], optimize=True)
        Image.fromarray(heat).save(folder / names["heatmap"], optimize=True)
        np.save(folder / SALIENCY, saliency.raw, allow_pickle=False)
    return names

"""Steps after a segmentation, by name: fields that follow the image's edges, and tidying of the labels.

Every step takes a segmentation and gives one, so that they chain in any order that makes sense. Steps on probabilities
need classes; where no probabilities are known they are made from the labels, with a stated certainty. Steps on labels
leave no probabilities, since those would no longer agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from medvision.core.errors import UsageError
from medvision.core.labels import Probabilities, Segmentation, certain_labels
from medvision.core.registry import Registry
from medvision.models.segmentation.crf import CrfFilter, CrfNormalisation, DenseCrfSettings
from medvision.ops.graph_cut import graph_cut
from medvision.ops.label_mask import drop_small, fill_holes, open_labels
from medvision.ops.potts import PottsGrid, mean_field, potts_grid, unary_costs
from medvision.ops.watershed import split_touching
from medvision.pipelines.config import Count, Positive
from medvision.pipelines.segment_methods import (
    Choice,
    CountOrNone,
    Image,
    Method,
    NotNegative,
    Spacing,
    says,
)
from medvision.store.records import Record

Certainty = Annotated[
    float,
    Field(gt=0.5, le=1, description="Probability of a pixel's class where only labels are known."),
]
_SURE = 0.9
_DEFAULT = DenseCrfSettings()


@dataclass(frozen=True)
class CleanUp(Method):
    """A step; `run(image, segmentation, options, spacing)` gives a segmentation.

    `fields`: it needs classes, not objects. `objects`: it gives objects.
    """

    run: Callable[[Image, Segmentation, Any, Spacing], Segmentation]
    fields: bool = False
    objects: bool = False


CLEAN_UPS = Registry[CleanUp]("clean-up step")


def clean_up(
    image: Image, found: Segmentation, steps: Iterable[Choice[CleanUp]], spacing: Spacing = None
) -> Segmentation:
    """`found` after the steps, one after the other.

    Args:
        image: `(*shape, channels)` that was segmented.
        found: from `segment`, or `Segmentation.of` a network's probabilities.
        steps: of `CLEAN_UPS`, from `choose` or `read_choice`.
        spacing: between pixels along each axis; lengths in the options are in its unit, or in pixels without it.

    Raises:
        UsageError: for an image that does not fit, or a step on classes after objects were told apart.
    """
    if image.shape[:-1] != found.labels.shape:
        raise UsageError(f"labels of shape {found.labels.shape} do not fit an image of shape {image.shape}")
    for step in steps:
        step.method.check_axes(step.name, image)
        check_order([step], found.objects)
        found = step.method.run(image, found, step.options, spacing)
    return found


def check_order(steps: Iterable[Choice[CleanUp]], objects: bool) -> None:
    """Refuse a step on classes after objects were told apart; `objects`: they are from the beginning.

    Raises:
        UsageError: with the step.
    """
    for step in steps:
        if step.method.fields and objects:
            raise UsageError(
                f"{step.name} goes by classes, and objects are told apart before it: leave it out, or put it first"
            )
        objects |= step.method.objects


class DenseCrfOptions(Record):
    """Options of `dense-crf`."""

    appearance_weight: Annotated[NotNegative, says("Of the kernel of place and colour.")] = (
        _DEFAULT.appearance_weight
    )
    appearance_position: Annotated[Positive, says("Its width in pixels, or in the spacing's unit.")] = (
        _DEFAULT.appearance_position
    )
    appearance_colour: Annotated[Positive, says("Its width in the image's values.")] = (
        _DEFAULT.appearance_colour
    )
    smoothness_weight: Annotated[NotNegative, says("Of the kernel of place alone.")] = (
        _DEFAULT.smoothness_weight
    )
    smoothness_position: Annotated[Positive, says("Its width in pixels, or in the spacing's unit.")] = (
        _DEFAULT.smoothness_position
    )
    iterations: Count = _DEFAULT.iterations
    filter: Annotated[CrfFilter, says("lattice, or exact: all pairs, for small images.")] = _DEFAULT.filter
    normalisation: Annotated[CrfNormalisation, says("symmetric, as DeepLab; none, as the paper.")] = (
        _DEFAULT.normalisation
    )
    certainty: Certainty = _SURE


class PairwiseCrfOptions(Record):
    """Options of `pairwise-crf`."""

    weight: Annotated[NotNegative, says("Cost of a border between like neighbours.")] = 2.0
    contrast: Annotated[
        Positive | None,
        says("Difference of colours, in the image's values, that makes borders cheap. Default: their mean."),
    ] = None
    neighbours: Annotated[int | None, says("4 or 8 in a plane, 6, 18 or 26 in a volume; all by default.")] = (
        None
    )
    sweeps: Count = 10
    certainty: Certainty = _SURE


class GraphCutCleanUpOptions(Record):
    """Options of `graph-cut`."""

    weight: Annotated[NotNegative, says("Cost of a border between like neighbours.")] = 2.0
    contrast: Annotated[
        Positive | None,
        says("Difference of colours, in the image's values, that makes borders cheap. Default: their mean."),
    ] = None
    neighbours: Annotated[int | None, says("4 or 8 in a plane, 6, 18 or 26 in a volume; all by default.")] = (
        None
    )
    rounds: Annotated[Count, says("Of expansions, with three classes or more.")] = 5
    certainty: Certainty = _SURE


class OpenOptions(Record):
    """Options of `open`."""

    radius: Annotated[NotNegative, says("Of the disc or ball, in pixels, or in the spacing's unit.")] = 2.0


class FillHolesOptions(Record):
    """Options of `fill-holes`."""

    largest: Annotated[CountOrNone | None, says("Pixels of the largest hole to fill. Default: all.")] = None


class DropSmallOptions(Record):
    """Options of `drop-small`."""

    least: Annotated[CountOrNone, says("Pixels of the smallest piece that stays.")] = 20


class WatershedSplitOptions(Record):
    """Options of `watershed-split`."""

    depth: Annotated[NotNegative, says("How far objects narrow between their middles.")] = 1.0
    smooth: Annotated[NotNegative, says("Gaussian of the distance, in pixels.")] = 1.0


def _dense_crf(image: Image, found: Segmentation, options: DenseCrfOptions, spacing: Spacing) -> Segmentation:
    import torch

    from medvision.models.segmentation.crf import dense_crf

    settings = DenseCrfSettings(**options.model_dump(exclude={"certainty"}))
    values, beliefs = (
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(part, -1, 0), np.float32)[None])
        for part in (image, _probabilities(found, options.certainty))
    )
    after = dense_crf(values, beliefs, settings, spacing)[0]
    return Segmentation.of(np.moveaxis(after.numpy(), 0, -1))


def _pairwise_crf(
    image: Image, found: Segmentation, options: PairwiseCrfOptions, spacing: Spacing
) -> Segmentation:
    costs = unary_costs(_probabilities(found, options.certainty))
    return Segmentation.of(mean_field(costs, _grid(image, options, spacing), options.sweeps))


def _graph_cut(
    image: Image, found: Segmentation, options: GraphCutCleanUpOptions, spacing: Spacing
) -> Segmentation:
    costs = unary_costs(_probabilities(found, options.certainty))
    return Segmentation(graph_cut(costs, _grid(image, options, spacing), options.rounds))


def _grid(image: Image, options: PairwiseCrfOptions | GraphCutCleanUpOptions, spacing: Spacing) -> PottsGrid:
    return potts_grid(
        image, options.weight, contrast=options.contrast, neighbours=options.neighbours, spacing=spacing
    )


def _probabilities(found: Segmentation, certainty: float) -> Probabilities:
    """Those that are known, or those of the labels."""
    if found.probabilities is not None:
        return found.probabilities
    return certain_labels(found.labels, max(2, int(found.labels.max()) + 1), certainty)


def _open(_: Image, found: Segmentation, options: OpenOptions, spacing: Spacing) -> Segmentation:
    return Segmentation(open_labels(found.labels, options.radius, spacing), objects=found.objects)


def _fill_holes(_: Image, found: Segmentation, options: FillHolesOptions, __: Spacing) -> Segmentation:
    return Segmentation(fill_holes(found.labels, options.largest), objects=found.objects)


def _drop_small(_: Image, found: Segmentation, options: DropSmallOptions, __: Spacing) -> Segmentation:
    return Segmentation(drop_small(found.labels, options.least, objects=found.objects), objects=found.objects)


def _watershed_split(
    _: Image, found: Segmentation, options: WatershedSplitOptions, spacing: Spacing
) -> Segmentation:
    objects = split_touching(found.labels, depth=options.depth, smooth=options.smooth, spacing=spacing)
    return Segmentation(objects, objects=True)


_BOTH = (2, 3)
for _name, _entry in {
    "dense-crf": CleanUp(
        DenseCrfOptions, "every pixel tied to every other by place and colour; gives probabilities",
        "Krähenbühl and Koltun 2011", _BOTH, _dense_crf, fields=True,
    ),
    "pairwise-crf": CleanUp(
        PairwiseCrfOptions, "neighbours tied where the image does not change; gives probabilities",
        "Boykov and Jolly 2001; mean field", _BOTH, _pairwise_crf, fields=True,
    ),
    "graph-cut": CleanUp(
        GraphCutCleanUpOptions, "labels of least energy of the same model",
        "Boykov, Veksler and Zabih 2001", _BOTH, _graph_cut, fields=True,
    ),
    "open": CleanUp(OpenOptions, "without parts thinner than a disc or ball", "Serra 1982", _BOTH, _open),
    "fill-holes": CleanUp(FillHolesOptions, "background that a class encloses is filled", "none", _BOTH, _fill_holes),
    "drop-small": CleanUp(DropSmallOptions, "without small pieces", "none", _BOTH, _drop_small),
    "watershed-split": CleanUp(
        WatershedSplitOptions, "touching objects told apart and numbered",
        "Beucher and Lantuéjoul 1979", _BOTH, _watershed_split, fields=True, objects=True,
    ),
}.items():  # fmt: skip
    CLEAN_UPS.register(_name)(_entry)

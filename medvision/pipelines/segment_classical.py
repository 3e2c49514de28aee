"""Segmentation without a trained network: the classical methods by name, each with its options.

They are baselines that a network has to beat, and ways to a mask where there is no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from medvision.core.labels import Labels, Segmentation, as_labels
from medvision.core.registry import Registry
from medvision.ops.clustering import cut_by_colour, kmeans, slic_kmeans
from medvision.ops.colours import Background
from medvision.ops.grab_cut import grab_cut
from medvision.ops.thresholds import Foreground, otsu, threshold
from medvision.ops.watershed import nuclei
from medvision.pipelines.config import Count, Positive
from medvision.pipelines.segment_methods import (
    Box,
    Choice,
    CountOrNone,
    Image,
    Method,
    NotNegative,
    Spacing,
    says,
)
from medvision.store.records import Record

Smooth = Annotated[NotNegative, says("Gaussian before, in pixels.")]
Zero = Annotated[
    Background, says("Which group is background: what holds most of the frame, dark, or bright.")
]
Classes = Annotated[int, Field(ge=2, description="Classes, background among them.")]
Seed = Annotated[CountOrNone, says("Of what is drawn at random.")]
Neighbours = Annotated[int | None, says("4 or 8 in a plane, 6, 18 or 26 in a volume; all by default.")]


@dataclass(frozen=True)
class Classical(Method):
    """A method; `run(image, options, spacing)` gives labels `(*shape)`; `objects` where they number objects."""

    run: Callable[[Image, Any, Spacing], Labels]
    objects: bool = False


CLASSICAL = Registry[Classical]("classical method of segmentation")


def segment(image: Image, choice: Choice[Classical], spacing: Spacing = None) -> Segmentation:
    """Labels of an image `(*shape, channels)` by a classical method.

    Args:
        image: uint8, or any other number; RGB in uint8 is compared in CIE Lab.
        choice: of `CLASSICAL`, from `choose` or `read_choice`.
        spacing: between pixels along each axis, for methods that go by distances; 1 where not given.

    Raises:
        UsageError: for an image that the method does not take.
    """
    choice.method.check_axes(choice.name, image)
    labels = as_labels(choice.method.run(image, choice.options, spacing), image.shape[:-1])
    return Segmentation(labels, objects=choice.method.objects)


class ThresholdOptions(Record):
    """Options of `threshold`."""

    level: Annotated[float, says("Lightness, in 0..100.")] = 50.0
    foreground: Annotated[Foreground, says("What lies beyond the level: dark or bright.")] = "dark"
    smooth: Smooth = 0.0


class OtsuOptions(Record):
    """Options of `otsu`."""

    classes: Classes = 2
    smooth: Smooth = 1.0
    background: Zero = "frame"


class OtsuWatershedOptions(Record):
    """Options of `otsu-watershed`."""

    smooth: Smooth = 1.0
    depth: Annotated[NotNegative, says("How far objects narrow between their middles, in pixels.")] = 1.0
    least: Annotated[CountOrNone, says("Pixels of the smallest object.")] = 20
    background: Zero = "frame"


class KmeansOptions(Record):
    """Options of `kmeans`."""

    classes: Classes = 2
    smooth: Smooth = 1.0
    background: Zero = "frame"
    seed: Seed = 0


class SlicKmeansOptions(Record):
    """Options of `slic-kmeans`."""

    classes: Classes = 2
    superpixels: Annotated[Count, says("About how many superpixels.")] = 1000
    compactness: Annotated[Positive, says("What distance weighs against colour.")] = 10.0
    background: Zero = "frame"
    seed: Seed = 0


class GrabCutOptions(Record):
    """Options of `grabcut`."""

    box: Annotated[
        Box | None,
        says("TOP/LEFT/BOTTOM/RIGHT around the object, in pixels. Default: start from Otsu's mask."),
    ] = None
    margin: Annotated[CountOrNone, says("Band around Otsu's mask that is decided, in pixels.")] = 3
    iterations: Count = 5
    background: Zero = "frame"


class GraphCutOptions(Record):
    """Options of `graph-cut`."""

    classes: Classes = 2
    weight: Annotated[NotNegative, says("Cost of a border between like colours.")] = 10.0
    rounds: Annotated[Count, says("Fits of the colours, each followed by a cut.")] = 3
    neighbours: Neighbours = None
    smooth: Annotated[NotNegative, says("Gaussian before the k-means that it starts from, in pixels.")] = 1.0
    background: Zero = "frame"
    seed: Seed = 0


def _threshold(image: Image, options: ThresholdOptions, _: Spacing) -> Labels:
    return threshold(image, options.level, smooth=options.smooth, foreground=options.foreground)


def _otsu(image: Image, options: OtsuOptions, _: Spacing) -> Labels:
    return otsu(image, **options.model_dump())


def _nuclei(image: Image, options: OtsuWatershedOptions, _: Spacing) -> Labels:
    return nuclei(image, **options.model_dump())


def _kmeans(image: Image, options: KmeansOptions, _: Spacing) -> Labels:
    return kmeans(image, **options.model_dump())


def _slic_kmeans(image: Image, options: SlicKmeansOptions, spacing: Spacing) -> Labels:
    return slic_kmeans(image, **options.model_dump(), spacing=spacing)


def _grab_cut(image: Image, options: GrabCutOptions, _: Spacing) -> Labels:
    if options.box is not None:
        return grab_cut(image, box=options.box, iterations=options.iterations)
    start = otsu(image, smooth=1.0, background=options.background)
    return grab_cut(image, start=start, margin=options.margin, iterations=options.iterations)


def _graph_cut(image: Image, options: GraphCutOptions, spacing: Spacing) -> Labels:
    start = kmeans(
        image,
        options.classes,
        smooth=options.smooth,
        background=options.background,
        seed=options.seed,
    )
    return cut_by_colour(
        image,
        start,
        weight=options.weight,
        rounds=options.rounds,
        neighbours=options.neighbours,
        spacing=spacing,
    )


_BOTH = (2, 3)
for _name, _entry in {
    "threshold": Classical(
        ThresholdOptions, "lightness on one side of a level", "none", _BOTH, _threshold
    ),
    "otsu": Classical(OtsuOptions, "bands of lightness", "Otsu 1979; Liao et al. 2001", _BOTH, _otsu),
    "otsu-watershed": Classical(
        OtsuWatershedOptions,
        "objects: Otsu's threshold, touching ones split by a watershed of distances",
        "Otsu 1979; Beucher and Lantuéjoul 1979",
        _BOTH,
        _nuclei,
        objects=True,
    ),
    "kmeans": Classical(KmeansOptions, "pixels grouped by colour", "Lloyd 1982", _BOTH, _kmeans),
    "slic-kmeans": Classical(
        SlicKmeansOptions, "superpixels grouped by colour", "Achanta et al. 2012", _BOTH, _slic_kmeans
    ),
    "grabcut": Classical(
        GrabCutOptions, "two colour mixtures and a graph cut, from a box or Otsu's mask",
        "Rother et al. 2004", (2,), _grab_cut,
    ),
    "graph-cut": Classical(
        GraphCutOptions, "a Gaussian of colour for each class and a graph cut, from k-means",
        "Boykov and Jolly 2001; Boykov et al. 2001", _BOTH, _graph_cut,
    ),
}.items():  # fmt: skip
    CLASSICAL.register(_name)(_entry)

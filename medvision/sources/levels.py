"""Where the pixels of a pyramid's levels lie, from the shapes alone."""

from __future__ import annotations

from medvision.sources.base import Level


def pyramid(shapes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Levels of a pyramid whose pixel corners coincide at the origin; `shapes[0]` is the full resolution."""
    return tuple(Level(shape, pixel_length(shapes[0], shape)) for shape in shapes)


def pixel_length(full: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """Side of a level's pixel in level-0 pixels, per axis.

    A writer that averages k x k blocks drops or completes the last partial block, so `full / shape` is a little off k
    (3567 / 1783 = 2.0006), which at the far edge is half a pixel and more. Where both axes agree with an integer k to
    less than one pixel of the level, k is the length; otherwise it is the ratio of the shapes.
    """
    ratios = (full[0] / shape[0], full[1] / shape[1])
    k = max(1, round((ratios[0] * ratios[1]) ** 0.5))
    if all(abs(n / k - m) < 1 for n, m in zip(full, shape, strict=True)):
        return (float(k), float(k))
    return ratios


def is_reduction(full: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether an image of this shape can be a smaller level of one of the shape `full`: same aspect, up to rounding."""
    if shape[0] >= full[0] and shape[1] >= full[1]:
        return False
    if min(shape) < 1 or shape[0] > full[0] or shape[1] > full[1]:
        return False
    row, column = full[0] / shape[0], full[1] / shape[1]
    # A side rounded by up to one pixel moves its ratio by that ratio / side.
    slack = max(row / shape[0], column / shape[1]) * 1.5 + 0.005 * max(row, column)
    return abs(row - column) <= slack

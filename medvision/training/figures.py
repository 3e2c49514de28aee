"""Figures of merit of a training: their intervals, and how a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.metrics.ranking import bootstrap_interval
from medvision.models.contract import Figure


def interval_over(
    groups: npt.ArrayLike, statistic: Callable[..., float], *arrays: npt.ArrayLike
) -> tuple[float, float] | None:
    """95% bootstrap interval over whole groups, such as patients, of a statistic that is defined on the arrays.

    None for so few groups that resamples often hold one class only.
    """
    try:
        return bootstrap_interval(statistic, *arrays, n=1000, groups=groups)
    except UsageError:
        return None


def figure_lines(figures: Mapping[str, Figure]) -> list[str]:
    """One line for each: name, value, interval, how it was measured."""
    return [
        f"{name}: {figure.value:.3f}{_between(figure.interval)}; {figure.protocol}"
        for name, figure in figures.items()
    ]


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"

"""What the cards of all models have in common: the order of sections, the table of figures, the warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from medvision.models.contract import Figure, WeightsContract


class CardTexts(Protocol):
    """The texts of a training configuration that a card repeats."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def limits(self) -> str:
        """What it is not for."""

    @property
    def licence(self) -> str:
        """Of the weights."""


def lay_out(config: CardTexts, sections: Mapping[str, Sequence[str]]) -> str:
    """A card as Markdown: sections of lines by heading, then limits and licence. One without lines is left out."""
    last = {"Limits": [config.limits.strip()], "Licence": [config.licence]}
    lines = [f"# {config.name}", "", "**Research use only: not for diagnosis.**", ""]
    for heading, content in [*sections.items(), *last.items()]:
        if content:
            lines += [f"## {heading}", *content, ""]
    return "\n".join(lines)


def figure_table(figures: Mapping[str, Figure]) -> list[str]:
    """Figures with their intervals and how they were measured, as a table in Markdown."""
    return [
        "| figure | value | 95% interval | how |",
        "|---|---:|---|---|",
        *(figure_rows(figures) or ["| none | | | |"]),
    ]


def figure_rows(figures: Mapping[str, Figure]) -> list[str]:
    """The rows of such a table."""
    return [
        f"| {name.replace('_', ' ')} | {figure.value:.3f} | {_interval(figure.interval)} | {figure.protocol} |"
        for name, figure in figures.items()
    ]


def calibration(found: str, rest: str) -> list[str]:
    """What probabilities were calibrated on, and what follows for them."""
    return [f"{found[:1].upper()}{found[1:]}{rest}"]


def takes(contract: WeightsContract, parameters: int, size: int) -> str:
    """Architecture, size and input of a network of windows. `size` is in bytes."""
    mean, std = (
        "(" + ", ".join(f"{value:.4g}" for value in of) + ")" for of in (contract.mean, contract.std)
    )
    return (
        f"{contract.architecture}, {parameters:,} parameters, {size / 1e6:.2f} MB, version {contract.version}. "
        f"Input: red, green, blue, divided by 255, mean {mean}, standard deviation {std}."
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"

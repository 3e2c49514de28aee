"""A study of transfer as a page: curves over the number of images, tables with intervals, and how it was done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from medvision.evaluations.page import NONE, EvaluationPage, PageTable, Row, interval_text
from medvision.metrics.crossed import Crossed
from medvision.report.plots import BLUE, GREY, GRID, Plot, draw
from medvision.training.transfer_config import Arm, TransferConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from medvision.training.transfer import TransferResult

TITLE = "Transfer: a pretrained trunk against random weights"
_COLOURS = ("#4d5966", BLUE, "#a3193f", "#3b8a3e", "#8a5a00")
_MARKS = ("o", "s", "^", "D", "v")
_WIDTH, _HEIGHT = 3.6, 3.1


def describe(results: Sequence[TransferResult], config: TransferConfig) -> EvaluationPage:
    """The study as a page; the arms are compared with the first."""
    counts = ", ".join(str(count) for count in config.images_per_class)
    trainings = sum(len(result.parts) for result in results)
    return EvaluationPage(
        name=config.name,
        title=TITLE,
        kicker="Study",
        heading=TITLE,
        summary=(
            f"{trainings} trainings: {counts} images of each class, {len(config.seeds)} seeds, {len(config.arms)} "
            f"ways, {config.arms[0].steps} steps each. Intervals: 95%, {config.draws:,} bootstrap draws of seeds and "
            "test images together."
        ),
        rows=tuple(row for result in results for row in _gains(result, config)),
        plots=(_curves(results, config),),
        notes=_notes(config),
        tables=(
            *(table for result in results for table in _tables(result, config)),
            _arms(config),
            _data(results),
        ),
        data=to_json(results, config),
    )


def to_json(results: Sequence[TransferResult], config: TransferConfig) -> dict[str, Any]:
    """Everything that was found, ready for JSON: means and differences with intervals, and each training."""
    return {
        "study": config.name,
        "arms": [arm.model_dump(mode="json") for arm in config.arms],
        "seeds": list(config.seeds),
        "intervals": {"level": 0.95, "bootstrap over": "seeds and test images", "draws": config.draws},
        "transfers": [
            {
                "name": result.transfer.name,
                "start": result.start,
                "trunk": result.transfer.target.trunk,
                "classes": list(result.classes),
                "images": {"to draw from": result.pool, "test": result.test, "test groups": result.groups},
                "results": [
                    _entry(result.found[count][figure], config, way, count, figure)
                    for count in config.images_per_class
                    for figure in _figures(result)
                    for way in range(len(config.arms))
                ],
                "trainings": [
                    {
                        "arm": part.arm,
                        "images per class": part.images_per_class,
                        "seed": part.seed,
                        **part.figures,
                        "steps": part.steps,
                    }
                    for part in result.parts
                ],
            }
            for result in results
        ],
    }


def _entry(found: Crossed, config: TransferConfig, way: int, count: int, figure: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "figure": figure,
        "images per class": count,
        "arm": config.arms[way].name,
        "mean": found.mean(way),
        "interval": found.interval(way),
        "seeds": found.values[way].tolist(),
    }
    if way:
        entry["difference"] = found.difference(way, 0)
        entry["difference interval"] = found.difference_interval(way, 0)
    return entry


def _gains(result: TransferResult, config: TransferConfig) -> list[Row]:
    """What the last arm gains on the first with fewest and most images; bold where the interval leaves 0 out."""
    last, first = len(config.arms) - 1, config.arms[0].name
    main = _figures(result)[0]
    rows = []
    for count in sorted({min(config.images_per_class), max(config.images_per_class)}):
        found = result.found[count][main]
        interval = found.difference_interval(last, 0)
        sure = interval is not None and not interval[0] <= 0 <= interval[1]
        name = f"{result.transfer.name}: {main}, {config.arms[last].name} − {first}, {count} per class"
        rows.append(Row(name, _signed(found.difference(last, 0)), _signed_interval(interval), sure))
    return rows


def _tables(result: TransferResult, config: TransferConfig) -> list[PageTable]:
    """The means of each figure, and below them the differences from the first arm."""
    counts, arms, name = config.images_per_class, config.arms, result.transfer.name
    tables = []
    for figure in _figures(result):
        rows = tuple(
            (
                str(count),
                *(
                    f"{result.found[count][figure].mean(i):.3f} "
                    f"({interval_text(result.found[count][figure].interval(i))})"
                    for i in range(len(arms))
                ),
            )
            for count in counts
        )
        note = "Mean over the seeds; in brackets its 95% interval."
        head = ("images per class", *(arm.name for arm in arms))
        tables.append(PageTable(f"{name}: {figure}", head, rows, note=note))
    for figure in _figures(result):
        rows = tuple(
            (str(count), *(_gain(result.found[count][figure], i) for i in range(1, len(arms))))
            for count in counts
        )
        head = ("images per class", *(arm.name for arm in arms[1:]))
        note = "Differences run by run on the same test images, mean over the seeds; in brackets the 95% interval."
        tables.append(PageTable(f"{name}: {figure} gained over “{arms[0].name}”", head, rows, note=note))
    return tables


def _gain(found: Crossed, way: int) -> str:
    return f"{_signed(found.difference(way, 0))} ({_signed_interval(found.difference_interval(way, 0))})"


def _arms(config: TransferConfig) -> PageTable:
    rows = tuple(
        (arm.name, "the transfer's weights" if arm.pretrained else "random weights", _stages(arm))
        for arm in config.arms
    )
    return PageTable("The ways of training", ("name", "starts from", "stages"), rows, words=3)


def _stages(arm: Arm) -> str:
    def what(train: str | tuple[str, ...]) -> str:
        if isinstance(train, tuple):
            return ", ".join(train)
        return {"all": "all layers", "head": "the head alone"}[train]

    return "; then ".join(
        f"{stage.steps} steps of {what(stage.train)} at {stage.learning_rate:g}" for stage in arm.stages
    )


def _data(results: Sequence[TransferResult]) -> PageTable:
    rows = tuple(
        (
            result.transfer.name,
            result.start,
            f"{result.transfer.target.trunk}, {result.transfer.target.input_px or 'its own'} px",
            ", ".join(result.classes),
            f"{result.pool:,}",
            f"{result.test:,}" + (f" of {result.groups} groups" if result.groups else ""),
        )
        for result in results
    )
    head = (
        "transfer",
        "pretrained weights",
        "network",
        "classes to learn",
        "images to draw from",
        "test images",
    )
    return PageTable("From where to where", head, rows, words=4)


def _notes(config: TransferConfig) -> tuple[str, ...]:
    return (
        "In each seed every way of training learns from the same images, larger numbers holding the smaller ones, and "
        "all answer the same test images. The number of steps is the same for all and was set beforehand; no "
        "validation images were used, nothing was stopped early, and the last (averaged) weights were tested.",
        f"Intervals draw seeds and test images (whole groups, where these are known) together. {len(config.seeds)} "
        "seeds say little about the spread between seeds: the intervals are rather too narrow than too wide.",
        "Other learning rates, steps or augmentations would give other figures for each way.",
    )


def _curves(results: Sequence[TransferResult], config: TransferConfig) -> Plot:
    """A row for each transfer, a panel for each figure: means with intervals, each seed as a faint mark."""

    columns = len(_figures(results[0]))

    def paint(figure: Figure) -> None:
        places = figure.subplots(len(results), columns, squeeze=False)
        for row, result in zip(places, results, strict=True):
            for number, (axes, name) in enumerate(zip(row, _figures(result), strict=True)):
                _panel(result, config, name)(axes)
                axes.set_title("" if number else result.transfer.name, loc="left", fontsize=11)
        handles, labels = places[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9
        )

    alt = "AUC and balanced accuracy against training images per class, for each way of training, with 95% intervals"
    return draw(config.name, alt, (_WIDTH * columns, _HEIGHT * len(results) + 0.4), paint)


def _panel(result: TransferResult, config: TransferConfig, name: str) -> Callable[[Axes], None]:
    counts = config.images_per_class

    def fill(axes: Axes) -> None:
        chance = 0.5 if "AUC" in name else 1 / len(result.classes)
        axes.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        for way, arm in enumerate(config.arms):
            colour, mark = _COLOURS[way % len(_COLOURS)], _MARKS[way % len(_MARKS)]
            apart = 1.045 ** (way - (len(config.arms) - 1) / 2)
            x = [count * apart for count in counts]
            found = [result.found[count][name] for count in counts]
            axes.plot(
                x,
                [one.mean(way) for one in found],
                color=colour,
                marker=mark,
                markersize=5,
                linewidth=1.6,
                label=arm.name,
                zorder=3,
            )
            for place, one in zip(x, found, strict=True):
                interval = one.interval(way)
                if interval is not None:
                    axes.plot([place, place], interval, color=colour, linewidth=1.2, zorder=2)
                seeds = one.values[way]
                axes.scatter(
                    [place] * len(seeds), seeds, s=9, color=colour, alpha=0.35, linewidth=0, zorder=2
                )
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("training images per class")
        axes.set_ylabel(name)
        lowest = min(
            end
            for count in counts
            for way in range(len(config.arms))
            for end in (
                *(result.found[count][name].interval(way) or ()),
                *result.found[count][name].values[way].tolist(),
            )
        )
        axes.set_ylim(bottom=lowest - 0.04, top=1.01)
        axes.grid(color=GRID, linewidth=0.6)

    return fill


def _figures(result: TransferResult) -> list[str]:
    """Names of what was measured; the first is the main one."""
    return list(next(iter(result.found.values())))


def _signed(value: float) -> str:
    """A difference with its sign and three decimals; a minus sign, not a hyphen."""
    rounded = round(value, 3)
    if rounded == 0:
        return "0.000"
    return f"{'+' if rounded > 0 else '−'}{abs(rounded):.3f}"


def _signed_interval(interval: tuple[float, float] | None) -> str:
    if interval is None or not all(math.isfinite(end) for end in interval):
        return NONE
    return f"{_signed(interval[0])} to {_signed(interval[1])}"

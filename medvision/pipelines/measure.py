"""Measure how far each way of computing a model is from eager float32, and write it into a copy of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medvision.core.errors import UsageError
from medvision.engine.engine import EngineSettings, PatchEngine
from medvision.models.catalogue import LoadedModel
from medvision.models.contract import Difference
from medvision.models.weights import read_weights, write_weights
from medvision.pipelines.heatmap import compute_heatmap, locate_tissue, plan_heatmap, read_overview
from medvision.sources import open_source
from medvision.sources.spacing import require_spacing
from medvision.store.files import atomic_write, make_output
from medvision.training.card import replace_differences
from medvision.training.difference import Ways, measure_differences, prepare_ways
from medvision.training.patches import read_folder


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured, why other ways could not be, and the files written."""

    differences: tuple[Difference, ...]
    refused: dict[tuple[str, str], str]
    files: dict[str, Path]


def measure_model(
    loaded: LoadedModel, windows: Path, slides: Sequence[Path], out: Path | None
) -> Measurement:
    """Measure a model on labelled windows and, where any are given, on the heatmaps of slides.

    The tensors are not touched, and the digest stays, because a difference changes no answer.

    Args:
        windows: folder with one sub-folder of images per class; each image's whole field is one window.
        slides: analysed in each way, at the model's usual stride.
        out: safetensors file to write: the same weights with the differences in their contract; beside it the card,
            where there is one.

    Raises:
        UsageError: if the windows lack a class, a slide holds no tissue, or `out` is not a new safetensors file.
        MedvisionError: if a file cannot be read.
    """
    if out is not None:
        _refuse(out)
    for slide in slides:  # before anything is measured
        source = open_source(slide)
        source.close()
        require_spacing(source)
    ways = prepare_ways(loaded.model)
    patches = read_folder(windows, loaded.contract.classes, ".*", loaded.contract.window_px)
    positive = loaded.contract.classes.index(loaded.contract.positive or loaded.contract.classes[-1])
    differences = measure_differences(ways, patches.images, patches.labels == positive)
    if slides:
        differences = _with_heatmaps(ways, differences, slides)
    files = {} if out is None else _write(loaded, differences, out)
    return Measurement(differences, ways.refused, files)


def _with_heatmaps(
    ways: Ways, differences: tuple[Difference, ...], slides: Sequence[Path]
) -> tuple[Difference, ...]:
    """The differences completed by those of the heatmaps of `slides`, all cells together."""
    changes: list[list[npt.NDArray[np.float32]]] = [[] for _ in ways.others]
    for slide in slides:
        for kept, change in zip(changes, _heatmap_changes(ways, slide), strict=True):
            kept.append(change)
    found = []
    for difference, kept in zip(differences, changes, strict=True):
        change = np.concatenate(kept)
        measured = {"heatmap": change.max(), "heatmap_mean": change.mean(), "cells": len(change)}
        found.append(Difference.model_validate(difference.model_dump() | measured))
    return tuple(found)


def _heatmap_changes(ways: Ways, slide: Path) -> Iterator[npt.NDArray[np.float32]]:
    """For each way but the exact one, the change `(n, classes)` in every cell that has a value."""
    source = open_source(slide)
    engine = PatchEngine(EngineSettings(device="cpu"))
    try:
        overview = read_overview(source)
        plan = plan_heatmap(source, ways.exact.model, locate_tissue(overview), overview)
        if len(plan) == 0:
            raise UsageError(f"{slide}: no tissue found, so it has no heatmap to compare")
        exact, _ = compute_heatmap(engine, source, plan, ways.exact)
        known = np.isfinite(exact.values).all(axis=-1)
        for runner in ways.others:
            raster, _ = compute_heatmap(engine, source, plan, runner)
            yield np.abs(raster.values[known] - exact.values[known])
    finally:
        source.close()


def _refuse(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: weights are written as safetensors; name a .safetensors file")
    if out.exists():
        raise UsageError(f"--out {out} exists; name a new file")


def _write(loaded: LoadedModel, differences: tuple[Difference, ...], out: Path) -> dict[str, Path]:
    make_output(out.parent)
    contract = loaded.contract.model_copy(update={"differences": differences})
    write_weights(out, read_weights(loaded.path)[0], contract.model_dump(mode="json"))
    files = {"weights": out}
    beside = loaded.path.with_suffix(".md")
    card = loaded.card or (beside.read_text(encoding="utf-8") if beside.is_file() else "")
    if card:
        files["card"] = out.with_suffix(".md")
        atomic_write(files["card"], replace_differences(card, differences).encode())
    return files

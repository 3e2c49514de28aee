"""What a configuration names, made ready once per process: the model, the slide model, the network on its device."""

from __future__ import annotations

from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path

import torch

from medvision.core.errors import UsageError
from medvision.engine.backends import BACKENDS, Runner, prepare
from medvision.engine.contract import PatchModel
from medvision.engine.device import resolve_device
from medvision.models import load_model
from medvision.models.segmentation import read_segment_model
from medvision.models.segmentation.heatmap import heatmap_model
from medvision.models.slide_forest import SlideForest, read_slide_forest
from medvision.models.turns import with_turns
from medvision.pipelines.config import AnalyzeConfig
from medvision.pipelines.dense import check_dense, dense_backend
from medvision.pipelines.device import submit
from medvision.pipelines.heatmap import spacing_of, stride_px
from medvision.pipelines.tissue_model import tissue_model

SEGMENTATION = "segmentation"
"""The name by which an analysis takes a segmentation network."""


@lru_cache(maxsize=2)
def model_for(
    model: str,
    weights: Path | None,
    classes: tuple[str, ...] | None,
    spacing: float | None,
    window: int | None,
    positive: str | None,
    tta: int = 1,
    stride: int | None = None,
) -> PatchModel:
    """The model of a configuration, loaded once per process. `stride` is the cell of a segmentation network."""
    if model == SEGMENTATION:
        return _segmentation(weights, positive, tta, stride)
    found = load_model(
        model, weights=weights, classes=classes, spacing_um=spacing, window_px=window, positive=positive
    )
    return with_turns(found, tta) if tta > 1 else found


def _segmentation(weights: Path | None, positive: str | None, tta: int, stride: int | None) -> PatchModel:
    if weights is None:
        raise UsageError(
            "model 'segmentation' needs --weights FILE, of a network of `medvision train segment`, or its folder"
        )
    found = heatmap_model(read_segment_model(weights), positive, stride)
    return with_turns(found, tta) if tta > 1 else found


def configured_model(config: AnalyzeConfig) -> PatchModel:
    """The model that `config` names.

    Raises:
        UnknownNameError, WeightsError: if it cannot be had; the message says what to pass.
    """
    return model_for(
        config.model,
        config.weights,
        config.classes,
        config.spacing,
        config.window,
        config.positive,
        config.tta,
        config.stride if config.model == SEGMENTATION else None,
    )


def check_config(config: AnalyzeConfig) -> PatchModel:
    """The model of `config`, after making sure that model, stride, device, backend and so on fit each other.

    Raises:
        MedvisionError: with what to pass instead.
    """
    configured_runner(config).result()
    return configured_model(config)


@lru_cache(maxsize=2)
def _forest_at(path: Path) -> SlideForest:
    return read_slide_forest(path)


def configured_forest(config: AnalyzeConfig) -> SlideForest | None:
    """The slide model that `config` names, if any, after making sure that it knows the heatmaps to come.

    Raises:
        MedvisionError: if it cannot be read, or was trained on heatmaps of another model or stride.
    """
    if config.slide_model is None:
        return None
    forest, model = _forest_at(config.slide_model), configured_model(config)
    forest.check_heatmap(model.name, model.digest, stride_px(model, config.stride) * spacing_of(model))
    return forest


def configured_runner(config: AnalyzeConfig) -> Future[Runner]:
    """The model of `config` ready to run; made on the device's thread, once whatever the number of slides.

    Its result raises `MedvisionError` if model, backend and precision do not fit each other.

    Raises:
        MedvisionError: at once, if the model or the device cannot be had, or the stride or the backend is none.
    """
    model, device = check_names(config), resolve_device(config.device)
    backend = config.backend if config.dense == "off" else dense_backend(config.backend)
    return submit(str(device), lambda: _runner_for(model, device, backend, config.precision))


def check_names(config: AnalyzeConfig) -> PatchModel:
    """The model of `config`, after making sure of everything that needs no device.

    Raises:
        MedvisionError: if the model cannot be had, or stride, dense, orientations, slide model or backend do not fit.
    """
    model = configured_model(config)
    if config.tta > 1 and config.dense != "off":
        raise UsageError(
            f"--tta {config.tta} turns whole windows, which a dense heatmap has not; use --dense off"
        )
    check_dense(model, stride_px(model, config.stride), config.dense)
    configured_forest(config)
    if config.tissue_model is not None:
        tissue_model(config.tissue_model, "cpu")
    if config.backend != "auto":
        BACKENDS.check(config.backend)
    return model


@lru_cache(maxsize=16)  # one for each GPU of a machine
def _runner_for(model: PatchModel, device: torch.device, backend: str, precision: str) -> Runner:
    return prepare(model, device, backend, precision)

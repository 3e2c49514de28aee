"""The classifier that an image configuration names, made ready once per process: its network on the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from medvision.core.errors import UsageError, WeightsError
from medvision.engine.backends import Runner, prepare
from medvision.engine.contract import PatchModel
from medvision.engine.device import resolve_device
from medvision.models.catalogue import MODELS
from medvision.models.explain import LastMap
from medvision.models.image_model import ImageModel, read_image_model
from medvision.pipelines.device import submit
from medvision.pipelines.image_config import ImageConfig

WEIGHTS = "model.safetensors"
"""What a training calls its weights, in its folder."""


@dataclass(eq=False)
class ReadyImageModel:
    """A classifier of images, its digests computed and its network prepared."""

    model: ImageModel
    patch_model: PatchModel
    digest: str
    device: torch.device
    runner: Runner
    last_map: LastMap | None = None
    """Of Grad-CAM, once a configuration that asks for it was checked."""
    _prepared: dict[str, Runner] = field(default_factory=dict)

    def prepared(self, model: PatchModel, backend: str) -> Runner:
        """Another model made of the same network, ready to run; made once."""
        if model.digest not in self._prepared:
            self._prepared[model.digest] = prepare(model, self.device, backend, "float32")
        return self._prepared[model.digest]


def ready_image_model(config: ImageConfig) -> ReadyImageModel:
    """The model of `config` on its device; whether they fit each other is for `check_image_config` to say.

    A file that was replaced since is read again. Never to be called from the device's own thread.

    Raises:
        UsageError: if it is a model of slides.
        WeightsError: if there is no such file, or it is no classifier of images.
        DeviceError: if there is no such device.
    """
    path, device = weights_file(config.model), resolve_device(config.device)
    try:
        facts = path.stat()
    except OSError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    return submit(str(device), lambda: _ready(path, facts.st_mtime_ns, facts.st_size, device)).result()


def weights_file(model: Path, command: str = "train classify") -> Path:
    """The weights that `model` names: a file, or the folder of a training that holds one.

    `command` is what makes such weights, for the message.

    Raises:
        UsageError: if it is the name of a model of slides.
        WeightsError: if it is a folder without weights.
    """
    inner = model / WEIGHTS
    if inner.is_file():
        return inner
    if str(model) in MODELS:
        raise UsageError(
            f"{model} is a model of windows of slides, not of images: `medvision batch` and `analyze` take it, and "
            f"`medvision classify` for pictures of single windows; what is needed here is made by `medvision {command}`"
        )
    if model.is_dir():
        raise WeightsError(
            f"{model}: this folder holds no {WEIGHTS}; it is not that of a training, or of one that has not ended"
        )
    return model


@lru_cache(maxsize=4)
def _ready(path: Path, _modified_ns: int, _bytes: int, device: torch.device) -> ReadyImageModel:
    model = read_image_model(path)
    patch_model = model.patch_model
    return ReadyImageModel(
        model, patch_model, model.digest, device, prepare(patch_model, device, "auto", "float32")
    )

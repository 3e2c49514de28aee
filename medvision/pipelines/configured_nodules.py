"""The networks that a search for nodules names, made ready once per process: on the device, their digests computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from medvision.core.digest import digest_json
from medvision.core.errors import WeightsError
from medvision.engine.backends import Runner, prepare
from medvision.engine.device import resolve_device
from medvision.models.nodules import NoduleModel, read_nodule_model
from medvision.models.nodules.contract import Kind
from medvision.models.turns import with_turns
from medvision.pipelines.configured_image import weights_file
from medvision.pipelines.device import submit
from medvision.pipelines.nodule_config import NoduleConfig


@dataclass(frozen=True, eq=False)
class ReadyNet:
    """A network of nodules, prepared."""

    model: NoduleModel
    digest: str
    runner: Runner


@dataclass(frozen=True, eq=False)
class ReadyNodules:
    """The detector and, where there is one, the reduction of false positives."""

    detector: ReadyNet
    reduction: ReadyNet | None
    device: torch.device

    @property
    def digest(self) -> str:
        """Of both."""
        return digest_json([net.digest for net in self.nets])

    @property
    def nets(self) -> tuple[ReadyNet, ...]:
        """The detector, then the reduction."""
        return (self.detector,) if self.reduction is None else (self.detector, self.reduction)


def ready_nodules(config: NoduleConfig) -> ReadyNodules:
    """The networks of `config` on its device. A file that was replaced since is read again.

    Never to be called from the device's own thread.

    Raises:
        WeightsError: if a file is no network of its kind.
        DeviceError: if there is no such device.
    """
    device = resolve_device(config.device)
    detector = _ready(config.detector, "nodule-detector", 1, device)
    if config.reduction is None:
        return ReadyNodules(detector, None, device)
    return ReadyNodules(detector, _ready(config.reduction, "nodule-fpr", config.turns, device), device)


def _ready(model: Path, kind: Kind, turns: int, device: torch.device) -> ReadyNet:
    path = weights_file(model, "train nodules")
    try:
        facts = path.stat()
    except OSError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    return submit(
        str(device), lambda: _prepared(path, facts.st_mtime_ns, facts.st_size, kind, turns, device)
    ).result()


@lru_cache(maxsize=8)
def _prepared(
    path: Path, _modified_ns: int, _bytes: int, kind: Kind, turns: int, device: torch.device
) -> ReadyNet:
    model = read_nodule_model(path, kind)
    plain = model.patch_model
    turned = plain if turns == 1 else with_turns(plain, turns)
    return ReadyNet(model, model.digest, prepare(turned, device, "auto", "float32"))

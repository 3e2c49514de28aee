"""The segmentation network that a configuration names, read once per process; made ready for each size of window."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from medvision.core.errors import UsageError, WeightsError
from medvision.engine.backends import Runner, prepare
from medvision.engine.device import resolve_device
from medvision.models.segmentation import SegmentModel, read_segment_model
from medvision.models.segmentation.tiling import Tiling, seam_difference
from medvision.pipelines.configured_image import weights_file
from medvision.pipelines.device import submit
from medvision.pipelines.segment_config import SegmentConfig

_KEPT = 3
"""Windows and ranges of values for which the network stays prepared."""


@dataclass(eq=False)
class ReadySegment:
    """A segmentation network, read and digested."""

    model: SegmentModel
    device: torch.device
    _runners: OrderedDict[object, Runner] = field(default_factory=OrderedDict)
    _seams: dict[Tiling, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the weights and the contract."""
        return self.model.digest

    def runner(self, window: tuple[int, ...], ends: tuple[float, float]) -> Runner:
        """The network for windows of a size and values between `ends`. On the device's own thread only."""
        key = (window, ends)
        if key not in self._runners:
            patch = replace(self.model.patch_model(*ends), window=window)
            self._runners[key] = prepare(patch, self.device, "auto", "float32")
            while len(self._runners) > _KEPT:
                self._runners.popitem(last=False)
        self._runners.move_to_end(key)
        return self._runners[key]

    def seam(self, tiling: Tiling) -> float:
        """`seam_difference` of a tiling, measured once. On the device's own thread only."""
        if tiling not in self._seams:
            self._seams[tiling] = seam_difference(self.model, self.model.net, tiling)
        return self._seams[tiling]


def ready_segment(config: SegmentConfig) -> ReadySegment:
    """The network of `config` on its device. A file that was replaced since is read again.

    Never to be called from the device's own thread.

    Raises:
        WeightsError: if the file is no segmentation network.
        DeviceError: if there is no such device.
    """
    if config.model is None:
        raise UsageError("no model was given: --model FILE, weights of `medvision train segment`")
    device, path = resolve_device(config.device), weights_file(config.model, "train segment")
    try:
        facts = path.stat()
    except OSError as error:
        raise WeightsError(f"{path}: no such weights file") from error
    return submit(str(device), lambda: _ready(path, facts.st_mtime_ns, facts.st_size, device)).result()


@lru_cache(maxsize=4)
def _ready(path: Path, _modified_ns: int, _bytes: int, device: torch.device) -> ReadySegment:
    return ReadySegment(read_segment_model(path), device)

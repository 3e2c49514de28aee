"""Classifiers of whole images: from a weights file to a `PatchModel` whose one window is the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import WeightsError
from medvision.core.results import Table
from medvision.engine.backends import Runner
from medvision.engine.contract import Normalisation, PatchModel
from medvision.engine.engine import Job, PatchEngine
from medvision.engine.plan import whole
from medvision.engine.sinks import TableSink
from medvision.models.classifiers.start import build
from medvision.models.image_contract import ImageContract
from medvision.models.weights import apply_weights, digest_state, name_of, read_weights
from medvision.ops.resize import Pixels, fit_square
from medvision.sources.array_source import ArraySource

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageModel:
    """A classifier of images with its contract."""

    name: str
    net: nn.Module
    contract: ImageContract

    @property
    def patch_model(self) -> PatchModel:
        """The network as the engine runs it; its outputs are logits `(n, classes)`, before any calibration."""
        contract = self.contract
        said = contract.model_dump(
            mode="json", include={"architecture", "classes", "input_px", "mean", "std"}
        )
        return PatchModel(
            name=self.name,
            net=self.net.eval(),
            window=(contract.input_px, contract.input_px),
            spacing=None,
            normalisation=Normalisation(contract.mean, contract.std),
            output="vector",
            classes=(),
            digest=digest_json(["logits", said, digest_state(self.net.state_dict())]),
            activation=_as_they_are,
            version=contract.version,
            calibration=contract.calibration,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and of all in the contract that changes an answer."""
        left_out = {"figures", "calibration", "version"}
        said = self.contract.model_dump(mode="json", exclude=left_out)
        return digest_json([said, digest_state(self.net.state_dict())])

    def probabilities(self, logits: Floats) -> Floats:
        """Calibrated probabilities `(n, classes)`: softmax of the logits over the temperature."""
        scaled = logits / self.contract.temperature
        shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)

    def energy(self, logits: Floats) -> Floats:
        """Free energy `(n,)` of the logits at the contract's temperature T: `-T logsumexp(logits / T)`."""
        heat = self.contract.temperature
        return -heat * np.asarray(np.logaddexp.reduce(logits / heat, axis=1), np.float64)

    def fitted(self, pixels: Pixels) -> Pixels:
        """An image as the network takes it, uint8 `(input_px, input_px, 3)`."""
        return fit_square(pixels, self.contract.input_px, self.contract.resize)


def read_image_model(path: Path) -> ImageModel:
    """The classifier in a safetensors file that `medvision train classify` wrote.

    Raises:
        WeightsError: if the file is absent, damaged, of another network, or says nothing of images.
    """
    state, metadata = read_weights(path)
    if metadata.get("kind") != "image":
        raise WeightsError(
            f"{path}: holds no classifier of images; `medvision train classify` makes one (a classifier of slides' "
            "windows is run by `medvision analyze` and `batch`)"
        )
    try:
        contract = ImageContract.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"{path}: the contract in its metadata is wrong at {where!r}: {first['msg']}"
        ) from error
    net = build(contract.architecture, len(contract.classes))
    apply_weights(net, state, path)
    return ImageModel(name_of(path), net, contract)


def logits_of(
    model: ImageModel, images: Iterable[Pixels], engine: PatchEngine, runner: Runner | None = None
) -> Floats:
    """Logits `(n, classes)` of images of any size, in order, by the engine: many images share one batch.

    `runner` is the model made ready (`engine.prepare(model.patch_model)`), for those who call this again and again.

    Raises:
        UsageError: if the engine cannot compute the model.
    """
    network = runner or model.patch_model
    return vectors_of(model, network, len(model.contract.classes), images, engine)


def vectors_of(
    model: ImageModel,
    network: PatchModel | Runner,
    length: int,
    images: Iterable[Pixels],
    engine: PatchEngine,
) -> Floats:
    """What a network that takes the model's input gives for images: vectors `(n, length)`, in the order of the images.

    Raises:
        UsageError: if the engine cannot compute the network.
    """
    columns = tuple(map(str, range(length)))

    def jobs() -> Iterator[Job[Table]]:
        for pixels in images:
            source = ArraySource(model.fitted(pixels), fill=0)
            plan = whole(source.id, source.levels[0].shape)
            yield Job(source, plan, TableSink(plan, columns))

    # A job ends when its last window is computed, so that they end in the order of the images.
    rows = [
        np.concatenate([table.columns[name] for name in columns])
        for _, table, _ in engine.run_many(jobs(), network, pack=True)
    ]
    return np.array(rows, np.float64).reshape(len(rows), length)


def _as_they_are(raw: torch.Tensor) -> torch.Tensor:
    return raw

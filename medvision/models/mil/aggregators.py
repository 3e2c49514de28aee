"""Aggregators by name and from files: what a weights file says of itself, and how it becomes a model of slides."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.core.features import FeatureSource
from medvision.core.results import FloatArray
from medvision.engine.device import resolve_device
from medvision.models.architectures import ARCHITECTURES, Architecture
from medvision.models.contract import Figure
from medvision.models.mil.contract import DESIGNS, Aggregator, MilDesign, MilOptions
from medvision.models.weights import apply_weights, digest_state, read_weights, write_weights

_HOMES = ("abmil", "clam", "dsmil", "transmil")

_MIL = "attention MIL"
for _name, _paper, _home in (
    ("abmil", "Ilse et al., ICML 2018 (gated attention)", "abmil:AttentionMil"),
    ("clam-sb", "Lu et al., Nature Biomedical Engineering 2021 (one branch)", "clam:Clam"),
    ("clam-mb", "Lu et al., Nature Biomedical Engineering 2021 (a branch per class)", "clam:Clam"),
    ("dsmil", "Li et al., CVPR 2021 (two streams)", "dsmil:DualStreamMil"),
    ("transmil", "Shao et al., NeurIPS 2021 (transformer; exact attention)", "transmil:TransMil"),
):
    ARCHITECTURES.register(_name)(
        Architecture(
            _MIL, "slide class from a feature table", _paper, f"medvision.models.mil.{_home}", "train mil"
        )
    )
ARCHITECTURES.register("cnn-lstm")(
    Architecture(
        "CNN-LSTM",
        "class of a large image or slide from its ordered patches",
        "Yan et al., BIBM 2018; Methods 2020",
        "medvision.models.cnn_lstm:CnnLstm",
        "train cnn-lstm",
    )
)


class AggregatorContract(BaseModel):
    """What an aggregator's weights file says of itself. `features` is what its vectors must be made by; None where a
    published file does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    classes: tuple[str, ...] = Field(min_length=2)
    positive: str
    options: MilOptions = MilOptions.model_validate({})
    dimension: int = Field(gt=0)
    features: FeatureSource | None = None
    trunk: dict[str, Any] = Field(default_factory=dict)
    """How the trunk is asked for (`FeaturesConfig` fields), without paths."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    calibration: str = "uncalibrated"
    version: str = ""
    figures: dict[str, Figure] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _positive_known(self) -> AggregatorContract:
        if self.positive not in self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"positive {self.positive!r} must be one of distinct classes {self.classes}")
        if self.features is not None and self.features.dimension != self.dimension:
            raise ValueError(f"features of {self.features.dimension} are not the {self.dimension} taken")
        return self


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What an aggregator says of a slide: a probability per class, and attention (n,), summing to 1 over the windows.

    Attention is NaN for windows that were missing, and None for networks that have none.
    """

    probabilities: dict[str, float]
    attention: FloatArray | None


@dataclass(frozen=True, eq=False)
class SlideModel:
    """A trained aggregator: feature vectors of a slide in, a `SlidePrediction` out."""

    name: str
    net: Aggregator
    contract: AggregatorContract
    digest: str
    card: str = ""

    def predict(self, vectors: FloatArray, device: str = "cpu") -> SlidePrediction:
        """The prediction for vectors `(n, d)` in reading order; rows of NaN are left out.

        Raises:
            UsageError: if vectors are of another length than the network takes, or there is none.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.contract.dimension:
            raise UsageError(
                f"{self.name} takes vectors of {self.contract.dimension} features, not of shape {vectors.shape}"
            )
        if np.isnan(vectors).any(axis=1).all():
            raise UsageError(f"{self.name}: a slide without any feature vector has no probability")
        place = resolve_device(device)
        with torch.inference_mode():
            bags = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))[None].to(place)
            (output,) = self.net.to(place)(bags)
            found = design(self.contract.architecture).probabilities(output).cpu().tolist()
        attention = output.attention.float().cpu().numpy() if self.net.has_attention else None
        return SlidePrediction(dict(zip(self.contract.classes, found, strict=True)), attention)

    def refuse_other(self, source: FeatureSource) -> None:
        """Refuse features of another trunk, spacing or stride than the aggregator was trained on.

        Raises:
            UsageError: naming what differs.
        """
        if self.contract.features is None:
            return
        if differ := source.differences(self.contract.features):
            raise UsageError(f"{self.name} was trained on other features: {'; '.join(differ)}")


def design(name: str) -> MilDesign:
    """The design called `name`.

    Raises:
        UnknownNameError: with those that there are.
    """
    _register_all()
    return DESIGNS[name]


def list_designs() -> list[str]:
    """Names of all aggregators."""
    _register_all()
    return list(DESIGNS)


def write_slide_model(path: Path, net: Aggregator, contract: AggregatorContract) -> None:
    """Write the weights with their contract, whole or not at all."""
    write_weights(path, net.state_dict(), contract.model_dump(mode="json"))


def load_slide_model(
    path: Path, *, classes: Sequence[str] | None = None, positive: str | None = None
) -> SlideModel:
    """The aggregator in a weights file, or in the `model.safetensors` of a folder that a training wrote.

    A published DSMIL aggregator (a state dictionary without a contract) is taken with `classes` in the order of its
    outputs; with one output, the second of two classes is the one it scores.

    Raises:
        WeightsError: if the file is absent, unsafe, of another network, or says wrong things of itself.
        UsageError: if the file carries no contract and `classes` are not given.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    state, metadata = read_weights(file)
    if not metadata:
        return _published(file, classes, positive)
    contract = _checked(file, metadata)
    if positive is not None:
        contract = _with_positive(contract, positive)
    net = build(contract)
    apply_weights(net, state, file)
    card = file.with_name("model-card.md")
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return _as_model(_title(file), net, contract, text)


def build(contract: AggregatorContract) -> Aggregator:
    """The untrained network of a contract."""
    made = design(contract.architecture).build(contract.dimension, len(contract.classes), contract.options)
    return made.eval()


def _published(path: Path, classes: Sequence[str] | None, positive: str | None) -> SlideModel:
    from medvision.models.mil.dsmil import load_published

    net = load_published(path)
    expected = max(2, net.outputs)
    if classes is None or len(classes) != expected:
        raise UsageError(f"{path}: carries no contract; pass --classes with {expected} names")
    if len(set(classes)) != len(classes):
        raise UsageError(f"--classes {','.join(classes)}: two of them have one name")
    contract = AggregatorContract(
        architecture="dsmil",
        classes=tuple(classes),
        positive=classes[-1],
        dimension=net.dimension,
        options=MilOptions(passing_values=hasattr(net.b_classifier.v, "__len__")),
    )
    return _as_model(path.stem, net, contract if positive is None else _with_positive(contract, positive), "")


def _checked(path: Path, metadata: dict[str, Any]) -> AggregatorContract:
    try:
        return AggregatorContract.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: is no aggregator of slides ({where}: {first['msg']})") from error


def _with_positive(contract: AggregatorContract, positive: str) -> AggregatorContract:
    if positive not in contract.classes:
        raise UsageError(
            f"the aggregator has no class {positive!r}; its classes: {', '.join(contract.classes)}"
        )
    return contract.model_copy(update={"positive": positive})


def _title(file: Path) -> str:
    return file.parent.name if file.name == "model.safetensors" and file.parent.name else file.stem


def _as_model(name: str, net: Aggregator, contract: AggregatorContract, card: str) -> SlideModel:
    said = contract.model_dump(mode="json", exclude={"figures"})
    digest = digest_json(["aggregator", said, digest_state(net.state_dict())])
    return SlideModel(name, net.eval(), contract, digest, card)


def _register_all() -> None:
    for home in _HOMES:
        importlib.import_module(f"medvision.models.mil.{home}")
    importlib.import_module("medvision.models.cnn_lstm")

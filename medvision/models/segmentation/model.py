"""Segmentation networks and their weights files: built by name, written, read, and made ready for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UsageError, WeightsError
from medvision.core.geometry import Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.models.segmentation import (
    deeplab,
    deeplab_v3,
    encoders,
    fc_densenet,
    fcn,
    nnunet,
    sharpmask,
    ternausnet,
    unet,
    vnet,
)
from medvision.models.segmentation.contract import SegmentContract
from medvision.models.segmentation.designs import SEGMENTERS
from medvision.models.weights import apply_weights, digest_state, name_of, read_weights, write_weights

_HOMES = (  # each registers its own
    unet,
    ternausnet,
    encoders,
    nnunet,
    vnet,
    fcn,
    deeplab,
    deeplab_v3,
    fc_densenet,
    sharpmask,
)


def list_segment_nets() -> list[str]:
    """Names of the networks."""
    return list(SEGMENTERS)


def usual_segment_contract(name: str, **changes: Any) -> SegmentContract:
    """The contract that a network has where nobody asks for another, with `changes` of its fields.

    Raises:
        UnknownNameError: for a name that no network has, with those there are.
        UsageError: for a field that contracts do not have, or a value that is not possible.
    """
    usual = SEGMENTERS[name].usual
    fields = usual.model_dump() | changes
    if isinstance(changes.get("options"), Mapping):
        fields["options"] = usual.options.model_dump() | dict(changes["options"])
    try:
        contract = SegmentContract.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"network {name!r}: {_first(error)}") from error
    check_window(contract)
    return contract


def slim_segment_contract(name: str, **changes: Any) -> SegmentContract:
    """The contract of a form of the network that trains on a few cores, with `changes` of its fields.

    Raises:
        UnknownNameError: for a name that no network has, with those there are.
        UsageError: for a field that contracts do not have, or a value that is not possible.
    """
    slim = dict(SEGMENTERS[name].slim)
    options = dict(slim.pop("options", {})) | dict(changes.pop("options", {}))
    return usual_segment_contract(name, **slim | changes, options=options)


def check_window(contract: SegmentContract) -> None:
    """Refuse a window that the network cannot take.

    Raises:
        UsageError: for a number of axes on which it is not defined, or sides that do not fit, with the nearest that do.
    """
    design = SEGMENTERS[contract.architecture]
    name, count = contract.architecture, len(contract.window)
    if count not in design.axes:
        known = " or ".join(str(n) for n in design.axes)
        raise UsageError(
            f"network {name!r} is defined on {known} axes; a window of {contract.window} has {count}"
        )
    multiple, lost = design.multiple(contract), design.lost(contract)
    for side in contract.window:
        if side > lost and (side - lost) % multiple == 0:
            continue
        below = lost + max(1, (side - lost) // multiple) * multiple
        raise UsageError(
            f"network {name!r} takes no window with a side of {side}; the nearest are {below} and {below + multiple}"
        )


def build_segment_net(contract: SegmentContract) -> nn.Module:
    """The network of a contract, with weights at random.

    Raises:
        UnknownNameError: if no network has its name.
        UsageError: if the network cannot take its window.
    """
    check_window(contract)
    return SEGMENTERS[contract.architecture].build(contract)


@dataclass(frozen=True, slots=True)
class TemperedClasses:
    """Logits `(n, classes, *out)` to probabilities over the classes, after division by a temperature."""

    temperature: float = 1.0

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Softmax over axis 1, in float32."""
        return torch.softmax(logits.float() / self.temperature, dim=1)


@dataclass(frozen=True, eq=False)
class SegmentModel:
    """A segmentation network with its contract."""

    name: str
    net: nn.Module
    contract: SegmentContract
    card: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of all in the contract that changes an answer."""
        said = self.contract.model_dump(mode="json", exclude={"figures", "calibration", "version"})
        return digest_json([said, digest_state(self.net.state_dict())])

    @cached_property
    def margin(self) -> tuple[int, ...]:
        """Pixels of a window, before each side, that a network without padding gives no answer for."""
        contract = self.contract
        net = self.net.eval()
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            out = net(torch.zeros((1, contract.channels, *contract.window), device=device)).shape[2:]
        return tuple((side - n) // 2 for side, n in zip(contract.window, out, strict=True))

    def patch_model(self, low: float | None = None, high: float | None = None) -> PatchModel:
        """The network as the engine runs it: probabilities `(n, classes, *out)`.

        Args:
            low: the value that counts as 0, of a source whose intensities have no unit; by default the contract's.
            high: the value that counts as 1.
        """
        contract = self.contract
        ends = contract.range if low is None or high is None else (low, high)
        if contract.intensity == "source" and (low is None or high is None):
            raise UsageError(
                f"model {self.name!r} takes its range of values from each source: it must be given"
            )
        spacing = contract.spacing
        return PatchModel(
            name=self.name,
            net=self.net.eval(),
            window=contract.window,
            spacing=None if spacing is None else Spacing(spacing, contract.unit, "supplied"),
            normalisation=Normalisation(contract.mean, contract.std, *ends),
            output="image",
            classes=contract.classes,
            digest=digest_json([self.digest, list(ends)]),
            activation=TemperedClasses(contract.temperature),
            version=contract.version,
            calibration=contract.calibration,
            card=self.card,
        )


def write_segment_model(path: Path, net: nn.Module, contract: SegmentContract) -> None:
    """Write the weights with their contract, whole or not at all."""
    write_weights(path, net.state_dict(), contract.model_dump(mode="json"))


def read_segment_model(path: Path) -> SegmentModel:
    """The network in a safetensors file that `write_segment_model` wrote, or in a folder with `model.safetensors`.

    Raises:
        WeightsError: if the file is absent, damaged, of another network or kind.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    state, metadata = read_weights(file)
    if metadata.get("kind") != "segmentation":
        raise WeightsError(
            f"{file}: holds weights of kind {metadata.get('kind', 'unsaid')!r}, not 'segmentation'"
        )
    try:
        contract = SegmentContract.model_validate(metadata)
    except ValidationError as error:
        raise WeightsError(f"{file}: the contract in its metadata is wrong: {_first(error)}") from error
    try:
        net = build_segment_net(contract)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{file}: {error}") from error
    apply_weights(net, state, file)
    card = file.with_suffix(".md")
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return SegmentModel(name_of(file), net.eval(), contract, text)


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where or 'as a whole'}: {problem['msg']}, not {problem['input']!r}"

"""Nodule networks and their weights files: built by name, written, read, and made ready for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from medvision.core.digest import digest_json
from medvision.core.errors import UnknownNameError, UsageError, WeightsError
from medvision.core.geometry import Spacing
from medvision.engine.contract import Normalisation, PatchModel
from medvision.models.contract import TemperedSoftmax
from medvision.models.nodules import cnn3d, faster_rcnn_fpn, faster_rcnn_vgg, resnet3d, retinanet
from medvision.models.nodules.contract import DetectorContract, Kind, ReductionContract
from medvision.models.nodules.designs import DETECTORS, REDUCTIONS
from medvision.models.nodules.detector import TemperedBoxes
from medvision.models.weights import apply_weights, digest_state, name_of, read_weights, write_weights

Contract = DetectorContract | ReductionContract

_HOMES = (faster_rcnn_vgg, faster_rcnn_fpn, retinanet, cnn3d, resnet3d)  # each registers its own
_CONTRACTS: dict[str, type[DetectorContract] | type[ReductionContract]] = {
    "nodule-detector": DetectorContract,
    "nodule-fpr": ReductionContract,
}


def list_nodule_nets(kind: Kind) -> list[str]:
    """Names of the detectors, or of the networks that judge candidates."""
    return list(DETECTORS if kind == "nodule-detector" else REDUCTIONS)


def usual_contract(name: str, **changes: Any) -> Contract:
    """The contract that a network has where nobody asks for another, with `changes` of its fields.

    Raises:
        UnknownNameError: for a name that no network has, with those there are.
        UsageError: for a field that contracts do not have, or a value that is not possible.
    """
    usual: Contract
    if name in DETECTORS:
        usual = DETECTORS[name].usual
    elif name in REDUCTIONS:
        usual = REDUCTIONS[name].usual
    else:
        known = ", ".join([*DETECTORS, *REDUCTIONS])
        raise UnknownNameError(f"no nodule network is called {name!r}; known: {known}")
    fields = usual.model_dump() | changes
    if isinstance(changes.get("options"), Mapping):
        fields["options"] = usual.options.model_dump() | dict(changes["options"])
    try:
        return type(usual).model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"network {name!r}: {_first(error)}") from error


def build_nodule_net(contract: Contract) -> nn.Module:
    """The network of a contract, with weights at random.

    Raises:
        UnknownNameError: if no network of the contract's kind has its name.
    """
    if isinstance(contract, DetectorContract):
        return DETECTORS[contract.architecture].build(contract)
    return REDUCTIONS[contract.architecture].build(contract)


@dataclass(frozen=True, eq=False)
class NoduleModel:
    """A nodule network with its contract."""

    name: str
    net: nn.Module
    contract: Contract

    @property
    def digest(self) -> str:
        """SHA-256 of the weights and of all in the contract that changes an answer."""
        said = self.contract.model_dump(mode="json", exclude={"figures", "calibration", "version"})
        return digest_json([said, digest_state(self.net.state_dict())])

    @property
    def patch_model(self) -> PatchModel:
        """The network as the engine runs it on volumes: objects of a detector, else probabilities."""
        contract = self.contract
        finds = isinstance(contract, DetectorContract)
        return PatchModel(
            name=self.name,
            net=self.net.eval(),
            window=contract.window,
            spacing=Spacing(contract.spacing_mm, "mm", "supplied"),
            normalisation=Normalisation((contract.mean,), (contract.std,), *contract.hu),
            output="objects" if finds else "scores",
            classes=contract.classes,
            digest=self.digest,
            activation=TemperedBoxes(contract.temperature)
            if finds
            else TemperedSoftmax(contract.temperature),
            positive="nodule",
            version=contract.version,
            calibration=contract.calibration,
        )


def write_nodule_model(path: Path, net: nn.Module, contract: Contract) -> None:
    """Write the weights with their contract, whole or not at all."""
    write_weights(path, net.state_dict(), contract.model_dump(mode="json"))


def read_nodule_model(path: Path, kind: Kind | None = None) -> NoduleModel:
    """The network in a safetensors file that `write_nodule_model` wrote.

    Args:
        path: the weights file.
        kind: what it must be; None takes either.

    Raises:
        WeightsError: if the file is absent, damaged, of another network or kind.
    """
    state, metadata = read_weights(path)
    found = metadata.get("kind")
    if found not in _CONTRACTS or kind not in (None, found):
        wanted = kind or " or ".join(_CONTRACTS)
        raise WeightsError(f"{path}: holds weights of kind {found or 'unsaid'!r}, not {wanted}")
    try:
        contract = _CONTRACTS[found].model_validate(metadata)
    except ValidationError as error:
        raise WeightsError(f"{path}: the contract in its metadata is wrong: {_first(error)}") from error
    try:
        net = build_nodule_net(contract)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    apply_weights(net, state, path)
    return NoduleModel(name_of(path), net.eval(), contract)


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where or 'as a whole'}: {problem['msg']}, not {problem['input']!r}"

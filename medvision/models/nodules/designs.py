"""The nodule networks by name. Each file of the family registers its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

from medvision.core.registry import Registry
from medvision.models.architectures import ARCHITECTURES, Architecture
from medvision.models.nodules.contract import DetectorContract, ReductionContract
from medvision.models.nodules.detector import NoduleDetector

C = TypeVar("C", DetectorContract, ReductionContract)
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class NoduleDesign(Generic[C, N]):
    """How a network is built from a contract, and the contract that it has where nobody asked for another."""

    build: Callable[[C], N]
    usual: C


DETECTORS: Registry[NoduleDesign[DetectorContract, NoduleDetector]] = Registry("nodule detector")
REDUCTIONS: Registry[NoduleDesign[ReductionContract, nn.Module]] = Registry("false-positive reduction")


def register_detector(
    usual: DetectorContract,
    build: Callable[[DetectorContract], NoduleDetector],
    home: str,
    family: str,
    paper: str,
    parameters: int,
) -> None:
    """Add a detector under its contract's name, here and to the list of architectures.

    `home` is `module:object` of the network; `parameters` is how many it has to learn by its usual contract.
    """
    DETECTORS.register(usual.architecture)(NoduleDesign(build, usual))
    task = "where nodules are in a chest CT"
    ARCHITECTURES.register(usual.architecture)(
        Architecture(family, task, paper, home, "train nodules", parameters=parameters, usual=usual)
    )


def register_reduction(
    usual: ReductionContract,
    build: Callable[[ReductionContract], nn.Module],
    home: str,
    family: str,
    paper: str,
    parameters: int,
) -> None:
    """Add a network that judges candidates under its contract's name, here and to the list of architectures."""
    REDUCTIONS.register(usual.architecture)(NoduleDesign(build, usual))
    task = "whether a candidate in a chest CT is a nodule"
    ARCHITECTURES.register(usual.architecture)(
        Architecture(family, task, paper, home, "train nodule-fpr", parameters=parameters, usual=usual)
    )

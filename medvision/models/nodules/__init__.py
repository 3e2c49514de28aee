"""Networks for lung nodules in CT: detectors, and what tells nodules from other candidates."""

from medvision.models.nodules.contract import (
    DetectorContract,
    DetectorOptions,
    NoduleContract,
    ReductionContract,
    ReductionOptions,
)
from medvision.models.nodules.detector import NoduleDetector, Target
from medvision.models.nodules.model import (
    NoduleModel,
    build_nodule_net,
    list_nodule_nets,
    read_nodule_model,
    usual_contract,
    write_nodule_model,
)

__all__ = [
    "DetectorContract",
    "DetectorOptions",
    "NoduleContract",
    "NoduleDetector",
    "NoduleModel",
    "ReductionContract",
    "ReductionOptions",
    "Target",
    "build_nodule_net",
    "list_nodule_nets",
    "read_nodule_model",
    "usual_contract",
    "write_nodule_model",
]

"""Faster R-CNN on a residual network with a feature pyramid, in place of Ding's VGG-16 and deconvolution.

He et al., "Deep residual learning" (CVPR 2016); Lin et al., "Feature pyramid networks" (CVPR 2017). The pyramid's
finest map has a cell for every 4 pixels, as Ding's has. Its five maps share a head, and so have as many anchors each:
Ding's six by pairs, and the last pair doubled for the two coarsest maps.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from medvision.models.nodules.contract import DetectorContract, DetectorOptions
from medvision.models.nodules.designs import register_detector
from medvision.models.nodules.slices import SLICES, SliceDetector, faster_rcnn

STRIDE_PX = 32
"""Of the coarsest map of the trunk."""


def build(trunk: Literal["resnet18", "resnet50"], contract: DetectorContract) -> SliceDetector:
    """The network of a contract."""
    net = resnet_fpn_backbone(
        backbone_name=trunk, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    options = contract.options
    return SliceDetector(
        faster_rcnn(net, pyramid_anchors(options.anchors_px), ["0", "1", "2", "3"], options), STRIDE_PX
    )


def pyramid_anchors(sides_px: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Sides of the anchors of each of five maps from those of six anchors."""
    a, b, c, d, e, f = sides_px
    return (a, b), (c, d), (e, f), (2 * e, 2 * f), (4 * e, 4 * f)


for _trunk, _parameters in (("resnet18", 28_282_196), ("resnet50", 41_350_996)):
    register_detector(
        DetectorContract(
            architecture=f"faster-rcnn-{_trunk}-fpn",
            spacing_mm=(1.25, 0.6, 0.6),
            window=(SLICES, 600, 600),
            options=DetectorOptions(hidden=1024),
        ),
        partial(build, _trunk),  # type: ignore[arg-type]
        f"{__name__}:build",
        "Faster R-CNN",
        "Ren et al., NeurIPS 2015; Lin et al., CVPR 2017 (feature pyramid)",
        parameters=_parameters,
    )

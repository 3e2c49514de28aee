"""A detector in space: MONAI's 3-D RetinaNet.

Lin et al., "Focal loss for dense object detection" (ICCV 2017), as MONAI trains it for nodules of LUNA16: a residual
network with a feature pyramid of three maps, anchors matched by ATSS (Zhang et al., CVPR 2020), and in training a
sample of positive and hard negative anchors. Spacing, anchors and thresholds are those of MONAI's bundle for LUNA16, in
array order; the slim one is ours.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from medvision.models.nodules.contract import DetectorContract, DetectorOptions
from medvision.models.nodules.designs import register_detector
from medvision.models.nodules.detector import Boxes, Losses, NoduleDetector, Target

LEVELS = {"layer1": "0", "layer2": "1"}
"""Stages of the trunk that the pyramid stands on; one more map is pooled from the last."""
STRIDE = (1, 2, 2)
"""Of the first convolution: slices are thicker than pixels are wide."""
DIVISIBLE = (8, 16, 16)
EXPANSION = {"basic": 1, "bottleneck": 4}
PYRAMID = 256
"""Channels of each map at width 1."""


class SpaceDetector(NoduleDetector):
    """MONAI's detector behind the contract of nodule detectors. Its boxes are in array order already."""

    def __init__(self, net: nn.Module, options: DetectorOptions) -> None:
        # Only here: MONAI takes seconds to import, which whoever lists the networks should not wait for.
        from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
        from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

        super().__init__()
        scales = tuple(2**level for level in range(len(LEVELS) + 1))
        detector = RetinaNetDetector(net, AnchorGeneratorWithAnchorShape(scales, options.anchors_voxels))
        detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
        detector.set_hard_negative_sampler(
            batch_size_per_image=64, positive_fraction=0.3, pool_size=20, min_neg=16
        )
        detector.set_box_selector_parameters(
            score_thresh=options.score_threshold,
            topk_candidates_per_level=1000,
            nms_thresh=options.nms_iou,
            detections_per_img=options.most,
        )
        self.detector = detector

    def find(self, window: torch.Tensor) -> Boxes:
        """Boxes of one window `(1, slices, rows, columns)`."""
        self._forget()
        (found,) = self.detector(window[None])
        return Boxes(found["boxes"].reshape(-1, 2, 3), found["labels_scores"])

    def losses(self, windows: torch.Tensor, targets: list[Target]) -> Losses:
        """Of class and box."""
        self._forget()
        flat = [{"boxes": t["boxes"].flatten(1).to(windows), "labels": t["labels"]} for t in targets]
        losses: Losses = self.detector(windows, flat)
        return losses

    def _forget(self) -> None:
        """Anchors are kept for windows of one shape, but may be on another device, or of no use to a gradient."""
        self.detector.anchors = None


def build(block: str, layers: tuple[int, int, int, int], contract: DetectorContract) -> SpaceDetector:
    """The network of a contract, with so many "basic" or "bottleneck" blocks in each stage of its trunk."""
    from monai.apps.detection.networks.retinanet_network import RetinaNet
    from monai.networks.blocks.backbone_fpn_utils import BackboneWithFPN
    from monai.networks.nets.resnet import ResNet, get_inplanes

    options = contract.options
    trunk = ResNet(
        block,
        list(layers),
        get_inplanes(),
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_size=7,
        conv1_t_stride=STRIDE,  # type: ignore[arg-type]  # annotated as one number, and meant as one for each axis
        widen_factor=options.width,
        feed_forward=False,
    )
    widths = [int(planes * options.width) * EXPANSION[block] for planes in get_inplanes()[: len(LEVELS)]]
    pyramid = BackboneWithFPN(trunk, LEVELS, widths, _eights(PYRAMID * options.width), spatial_dims=3)
    return SpaceDetector(
        RetinaNet(
            spatial_dims=3,
            num_classes=1,
            num_anchors=len(options.anchors_voxels),
            feature_extractor=pyramid,
            size_divisible=DIVISIBLE,
        ),
        options,
    )


def _eights(channels: float) -> int:
    """The nearest multiple of eight, the number of groups in which the heads normalise."""
    return max(8, 8 * round(channels / 8))


_PAPER = "Lin et al., ICCV 2017; Cardoso et al., arXiv:2211.02701 (MONAI)"
_FAMILY = "RetinaNet"

register_detector(
    DetectorContract(
        architecture="retinanet3d-resnet50",
        spacing_mm=(1.25, 0.703125, 0.703125),
        window=(80, 192, 192),
        hu=(-1024, 300),
        options=DetectorOptions(score_threshold=0.02, nms_iou=0.22, most=300),
    ),
    partial(build, "bottleneck", (3, 4, 6, 3)),
    f"{__name__}:SpaceDetector",
    _FAMILY,
    _PAPER,
    parameters=20_902_741,
)
register_detector(
    DetectorContract(
        architecture="retinanet3d-slim",
        spacing_mm=(1.25, 1.0, 1.0),
        window=(48, 96, 96),
        options=DetectorOptions(
            width=0.25,
            anchors_voxels=((3, 4, 4), (5, 6, 6), (7, 9, 9)),
            score_threshold=0.02,
            nms_iou=0.22,
            most=100,
        ),
    ),
    partial(build, "basic", (1, 1, 1, 1)),
    f"{__name__}:SpaceDetector",
    _FAMILY,
    f"{_PAPER}; a quarter as wide, a block a stage",
    parameters=1_208_709,
)

"""Detectors of slices: torchvision's Faster R-CNN on three adjacent slices as its channels.

Ren et al., "Faster R-CNN" (NeurIPS 2015); the three slices are of Ding et al. (MICCAI 2017). The boxes found are those
of the middle slice: they reach from 1 to 2 along the first axis. In a plan of stride 1 along that axis each window owns
its middle slice, so that each slice is answered for once.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from medvision.models.nodules.contract import DetectorOptions
from medvision.models.nodules.detector import Boxes, Losses, NoduleDetector, Target

SLICES = 3
POOLED = 7
"""Side of the maps that regions are pooled to."""
SAMPLED = 32
"""Anchors of a window that one step learns from, and twice the proposals. A window holds a nodule or two, and few match
them: among torchvision's 256 and 512 they would hardly count."""
SMALLEST_PX = 64
"""Below it the padding to whole cells would be so much of a window that torchvision mistakes the scale of its maps."""


class SliceDetector(NoduleDetector):
    """A Faster R-CNN, whose class 1 is the nodule, behind the contract of nodule detectors."""

    def __init__(self, net: FasterRCNN, divisible: int) -> None:
        super().__init__()
        net.transform = _AsTheyAre(divisible)
        self.net = net

    def find(self, window: torch.Tensor) -> Boxes:
        """Boxes of the middle slice of one window `(1, 3, rows, columns)`."""
        (found,) = self.net([self._slices(window)])
        x0, y0, x1, y1 = found["boxes"].unbind(dim=1)
        first, last = torch.ones_like(x0), torch.full_like(x0, 2)
        corners = [torch.stack(corner, dim=1) for corner in ((first, y0, x0), (last, y1, x1))]
        return Boxes(torch.stack(corners, dim=1), found["scores"])

    def losses(self, windows: torch.Tensor, targets: list[Target]) -> Losses:
        """Of both stages, class and box. Of the targets those count that the middle of the middle slice cuts."""
        losses: Losses = self.net(
            [self._slices(window) for window in windows], [_flat(target) for target in targets]
        )
        return losses

    @staticmethod
    def _slices(window: torch.Tensor) -> torch.Tensor:
        if window.shape[1] != SLICES or min(window.shape[2:]) < SMALLEST_PX:
            raise ValueError(
                f"a window of {tuple(window.shape[1:])} voxels does not have {SLICES} slices of at least "
                f"{SMALLEST_PX} x {SMALLEST_PX}"
            )
        return window[0]


def faster_rcnn(
    trunk: nn.Module, anchors_px: tuple[tuple[int, ...], ...], maps: list[str], options: DetectorOptions
) -> FasterRCNN:
    """Torchvision's two stages on `trunk`, with square anchors on each of its maps.

    Args:
        trunk: gives maps of `out_channels` channels.
        anchors_px: sides, for each map.
        maps: names of those that regions are pooled from.
        options: thresholds and sizes.
    """
    channels = trunk.out_channels
    assert isinstance(channels, int)
    return FasterRCNN(
        trunk,
        rpn_anchor_generator=AnchorGenerator(anchors_px, ((1.0,),) * len(anchors_px)),
        # At most torchvision's numbers: the time that suppression takes grows with the square of them.
        rpn_pre_nms_top_n_train=min(2000, 10 * options.proposals),
        rpn_pre_nms_top_n_test=min(1000, 10 * options.proposals),
        rpn_post_nms_top_n_train=2 * options.proposals,
        rpn_post_nms_top_n_test=options.proposals,
        # Squares that grow by half overlap by less than torchvision's 0.7, even about one centre.
        rpn_fg_iou_thresh=0.5,
        rpn_bg_iou_thresh=0.3,
        # 0 takes as many samples as a bin has cells: one, as most nodules have fewer cells than bins.
        box_roi_pool=MultiScaleRoIAlign(maps, POOLED, sampling_ratio=0),
        box_head=TwoMLPHead(channels * POOLED**2, options.hidden),
        box_predictor=FastRCNNPredictor(options.hidden, 2),
        rpn_batch_size_per_image=SAMPLED,
        box_batch_size_per_image=SAMPLED // 2,
        box_score_thresh=options.score_threshold,
        box_nms_thresh=options.nms_iou,
        box_detections_per_img=options.most,
    )


class _AsTheyAre(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Windows arrive normalised and at their spacing: they are neither scaled nor resized, only padded."""

    def __init__(self, divisible: int) -> None:
        super().__init__(1, 1, [0.0], [1.0], size_divisible=divisible)

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def resize(
        self, image: torch.Tensor, target: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        return image, target


def _flat(target: Target) -> dict[str, torch.Tensor]:
    """Boxes (x0, y0, x1, y1) of the middle slice, and labels from 1: 0 is torchvision's background."""
    boxes, middle = target["boxes"], SLICES / 2
    cut = (boxes[:, 0, 0] <= middle) & (middle < boxes[:, 1, 0])
    return {"boxes": boxes[cut][:, :, [2, 1]].flatten(1), "labels": target["labels"][cut] + 1}

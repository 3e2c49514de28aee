"""The candidate detector of Ding et al., "Accurate pulmonary nodule detection in computed tomography images using deep
convolutional neural networks" (MICCAI 2017, arXiv:1706.04303).

Faster R-CNN on VGG-16 (Simonyan & Zisserman, ICLR 2015). After conv5_3, which has a cell for every 16 pixels, a
deconvolution of kernel 4 and stride 4 makes one for every 4, because nodules are small; at each of these cells stand
six square anchors. The paper puts the 512 pixels of a slice on 600; here a window is 600 pixels of 0.6 mm, much the
same on most scans, and one size for every scan. Thresholds of matching, and how many boxes stay, are
torchvision's or ours.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from medvision.models.nodules.contract import DetectorContract, DetectorOptions
from medvision.models.nodules.designs import register_detector
from medvision.models.nodules.slices import SLICES, SliceDetector, faster_rcnn

STRIDE_PX = 16
"""Of VGG-16 at conv5_3, after four pools."""
_CONV3_3 = 8
"""Its place in torchvision's list of the layers."""


class DeconvolvedVgg(nn.Module):
    """Maps `(n, out_channels, rows / 4, columns / 4)` of windows whose sides are multiples of 16.

    `features` has the names and, at width 1, the shapes of torchvision's `vgg16().features` (`vgg16_bn()` with `norm`).
    With `lateral` the map of conv3_3 is added to the deconvolved one through a convolution of kernel 1, as in feature
    pyramids (Lin et al., CVPR 2017): a nodule of 4 pixels need then not be told through cells of 16.
    """

    def __init__(self, width: float, norm: bool, lateral: bool = False) -> None:
        super().__init__()
        layers = [entry if entry == "M" else max(1, round(width * int(entry))) for entry in cfgs["D"]]
        self.features = make_layers(layers[:-1], batch_norm=norm)  # without the pool after conv5_3
        self.out_channels = int(layers[-2])
        self.deconvolution = nn.ConvTranspose2d(self.out_channels, self.out_channels, 4, stride=4)
        self.lateral = nn.Conv2d(int(layers[_CONV3_3]), self.out_channels, 1) if lateral else None
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
                # Without it thirteen layers let hardly anything through. As a deconvolution's kernel is as wide as its
                # stride, each pixel of its map sums over the channels alone.
                fan = part.in_channels * (9 if isinstance(part, nn.Conv2d) else 1)
                nn.init.normal_(part.weight, std=(2 / fan) ** 0.5)
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """One map."""
        fine = self.features[: self._third_pool](windows)
        deep = self.deconvolution(self.features[self._third_pool :](fine))
        return torch.relu(deep if self.lateral is None else deep + self.lateral(fine))

    @property
    def _third_pool(self) -> int:
        """Its place among the layers. What goes into it has a cell for every 4 pixels, as what is given back."""
        return [k for k, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)][2]


def build(contract: DetectorContract) -> SliceDetector:
    """The network of a contract."""
    options = contract.options
    trunk = DeconvolvedVgg(options.width, options.norm, options.lateral)
    return SliceDetector(faster_rcnn(trunk, (options.anchors_px,), ["0"], options), STRIDE_PX)


_PAPER = "Ding et al., MICCAI 2017; Ren et al., NeurIPS 2015"
_FAMILY = "Faster R-CNN"

register_detector(
    DetectorContract(
        architecture="faster-rcnn-vgg16", spacing_mm=(1.25, 0.6, 0.6), window=(SLICES, 600, 600)
    ),
    build,
    f"{__name__}:DeconvolvedVgg",
    _FAMILY,
    _PAPER,
    parameters=140_871_528,
)
register_detector(
    DetectorContract(
        architecture="faster-rcnn-vgg-slim",
        spacing_mm=(1.25, 1.0, 1.0),
        window=(SLICES, 384, 384),
        options=DetectorOptions(width=0.25, hidden=256, norm=True, lateral=True),
    ),
    build,
    f"{__name__}:DeconvolvedVgg",
    _FAMILY,
    f"{_PAPER}; a quarter as wide, with a lateral connection",
    parameters=3_019_192,
)

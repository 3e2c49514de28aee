"""Networks that say what every pixel, or voxel, is."""

from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.model import (
    SegmentModel,
    build_segment_net,
    list_segment_nets,
    read_segment_model,
    usual_segment_contract,
    write_segment_model,
)

__all__ = [
    "SegmentContract",
    "SegmentModel",
    "SegmentOptions",
    "build_segment_net",
    "list_segment_nets",
    "read_segment_model",
    "usual_segment_contract",
    "write_segment_model",
]

"""Networks that say what every pixel, or voxel, is."""

from medvision.models.segmentation.contract import SegmentContract, SegmentOptions
from medvision.models.segmentation.model import (
    SegmentModel,
    build_segment_net,
    list_segment_nets,
    read_segment_model,
    slim_segment_contract,
    usual_segment_contract,
    write_segment_model,
)
from medvision.models.segmentation.trunk import load_trunk

__all__ = [
    "SegmentContract",
    "SegmentModel",
    "SegmentOptions",
    "build_segment_net",
    "list_segment_nets",
    "load_trunk",
    "read_segment_model",
    "slim_segment_contract",
    "usual_segment_contract",
    "write_segment_model",
]

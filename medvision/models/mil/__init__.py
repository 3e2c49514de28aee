"""Networks that judge a slide by its feature table: attention MIL, and the CNN-LSTM over the ordered rows."""

from medvision.models.mil.aggregators import (
    AggregatorContract,
    SlideModel,
    SlidePrediction,
    list_designs,
    load_slide_model,
    write_slide_model,
)
from medvision.models.mil.contract import Aggregator, BagOutput, MilDesign, MilOptions

__all__ = [
    "Aggregator",
    "AggregatorContract",
    "BagOutput",
    "MilDesign",
    "MilOptions",
    "SlideModel",
    "SlidePrediction",
    "list_designs",
    "load_slide_model",
    "write_slide_model",
]

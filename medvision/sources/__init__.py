"""Slides and pictures behind one contract: `open_source` picks the reader, `read_at` is the only way to resample."""

from medvision.sources.base import Source
from medvision.sources.guarded import Limits, open_guarded
from medvision.sources.opening import open_source
from medvision.sources.resample import extent_at, overview, read_at

__all__ = ["Limits", "Source", "extent_at", "open_guarded", "open_source", "overview", "read_at"]
